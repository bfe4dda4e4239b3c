/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Every exported function has a number: faults and driver versions are looked up by it. */
#ifndef NVMLSIM_FUNCTIONS_H
#define NVMLSIM_FUNCTIONS_H

enum function {
#define F(name, since) FN_##name,
#include "functions.def"
#undef F
    FN_COUNT
};

extern const char *const function_names[FN_COUNT];
extern const unsigned short function_since[FN_COUNT];

#endif
