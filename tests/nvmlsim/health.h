/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Health readings that both the getters and the field values give. */
#ifndef NVMLSIM_HEALTH_H
#define NVMLSIM_HEALTH_H

#include "sim.h"

uint64_t ecc_total(const struct gpu *g, int lifetime, int kind);
uint64_t ecc_sram(const struct gpu *g, int lifetime, int kind);
bool ecc_counts(const struct gpu *g, int lifetime);         /* ECC is on and NVML tells */
uint retired_pending(const struct gpu *g, int cause);       /* cause < 0: any */
uint retired_total(const struct gpu *g, uint cause);
bool rows_can_be_read(const struct gpu *g);

#endif
