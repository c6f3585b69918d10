/* Operations that sdcffi computes in place of ggml's CPU backend; called by ggml-cpu.c (see patches). */
#ifndef SDCFFI_CPU_H
#define SDCFFI_CPU_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_compute_params;
struct ggml_tensor;

/* Compute this thread's share of a node; false where it is ggml's to compute. */
bool sdcffi_cpu_forward(const struct ggml_compute_params* params, struct ggml_tensor* node);

/* Bytes of work memory that sdcffi_cpu_forward needs for a node; 0 where it is ggml's. */
size_t sdcffi_cpu_work_size(const struct ggml_tensor* node, int threads);

#ifdef __cplusplus
}
#endif

#endif
