/* Operations that sdcffi computes in place of ggml's CPU backend. The patched ggml-cpu.c calls these functions. */
#ifndef SDCFFI_CPU_H
#define SDCFFI_CPU_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_compute_params;
struct ggml_tensor;

/* Compute this thread's share of a node. Returns false if ggml has to compute the node. */
bool sdcffi_cpu_forward(const struct ggml_compute_params* params, struct ggml_tensor* node);

/* Return the bytes of work memory that sdcffi_cpu_forward needs for a node; 0 if ggml has to compute it. */
size_t sdcffi_cpu_work_size(const struct ggml_tensor* node, int threads);

#ifdef __cplusplus
}
#endif

#endif
