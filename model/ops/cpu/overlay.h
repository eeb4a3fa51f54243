/*
 * overlay.h - where an instruction set puts its kernels over the portable ones.
 *
 * pc_cpu_ops starts from the portable float table and lets avx2/ and then avx512/ replace the slots
 * they do better; pc_cpu_grad_ops does the same with the second table. The two are separate functions
 * in separate files, so that a binary which never asks for the second links no backward kernel.
 */
#ifndef PC_OPS_CPU_OVERLAY_H
#define PC_OPS_CPU_OVERLAY_H

#include "model/ops/ops.h"

#if defined(__x86_64__) || defined(__i386__)
#define PC_X86 1
#else
#define PC_X86 0
#endif

void pc_avx2_overlay(pc_ops *ops);
void pc_avx2_overlay_grad(pc_grad_ops *ops);
void pc_avx512_overlay(pc_ops *ops);
void pc_avx512_overlay_grad(pc_grad_ops *ops);

// The most that this processor and system support. An overlay above it must not even be called: it is compiled for
// instructions that the processor does not have.
pc_isa pc_isa_best(void);

#endif
