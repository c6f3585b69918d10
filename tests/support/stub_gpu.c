/* A backend plug-in with as many GPUs as the environment says, each of which is the CPU underneath; tests/support/gpus.py
 * compiles it. NAME is the registry's name, STUB_<NAME> lists the devices as "type:GiB", such as "gpu:8,igpu:2"; of type
 * "crash" the process dies. What is begun and computed on a device is written to the file STUB_LOG; one that STUB_CRASH
 * names dies of computing.
 *
 * The structs are those of ggml-backend-impl.h (API version 2), function pointers as arrays. MORE_FUNCTIONS says how many
 * a backend has before the one that computes, beyond the first ten. STUB_CANNOT names a type of weights with which no device can multiply.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REG_NAME, REG_COUNT, REG_DEVICE, REG_ADDRESS, REG_FUNCTIONS };
enum { DEV_NAME, DEV_DESCRIPTION, DEV_MEMORY, DEV_TYPE, DEV_PROPS, DEV_INIT, DEV_BUFFER, DEV_HOST_BUFFER };
enum { DEV_FROM_POINTER = 8, DEV_SUPPORTS_OP, DEV_SUPPORTS_BUFFER, DEV_FUNCTIONS = 15 };
enum { BACKEND_NAME, BACKEND_FREE, BACKEND_COMPUTE = 10 + MORE_FUNCTIONS, BACKEND_FUNCTIONS = 14 + MORE_FUNCTIONS };

struct reg {
    int api_version;
    void* function[REG_FUNCTIONS];
    void* context;
};

struct device {
    void* function[DEV_FUNCTIONS];
    struct reg* reg;
    void* context;
    char name[32];
    char description[64];
    int type;
    size_t memory;
};

struct backend {
    void* guid;
    void* function[BACKEND_FUNCTIONS];
    struct device* device;
    void* context;
    struct backend* cpu;
};

struct props { /* of ggml_backend_dev_props, the beginning */
    const char* name;
    const char* description;
    size_t memory_free;
    size_t memory_total;
    int type;
};

struct tensor { /* of ggml_tensor, the beginning */
    int type;
    void* buffer;
    int64_t ne[4];
    size_t nb[4];
    int op;
    int32_t op_params[16];
    int32_t flags;
    const struct tensor* src[10];
};

struct device* ggml_backend_dev_by_type(int type);
const char* ggml_op_name(int op);
const char* ggml_type_name(int type);

static struct device devices[8];
static size_t count;

static void tell(const char* what, const struct device* device) {
    const char* path = getenv("STUB_LOG");
    FILE* file       = path != NULL ? fopen(path, "a") : NULL;
    if (file != NULL) {
        fprintf(file, "%s %s\n", what, device->name);
        fclose(file);
    }
}

static struct device* cpu(void) {
    return ggml_backend_dev_by_type(0);
}

static const char* backend_name(struct backend* backend) {
    return backend->device->name;
}

static void backend_free(struct backend* backend) {
    ((void (*)(struct backend*))backend->cpu->function[BACKEND_FREE])(backend->cpu);
    free(backend);
}

static int backend_compute(struct backend* backend, void* graph) {
    const char* crash = getenv("STUB_CRASH");
    tell("compute", backend->device);
    if (crash != NULL && strcmp(crash, backend->device->name) == 0) {
        abort();
    }
    return ((int (*)(struct backend*, void*))backend->cpu->function[BACKEND_COMPUTE])(backend->cpu, graph);
}

static struct backend* device_init(struct device* device, const char* params) {
    struct device* host     = cpu();
    struct backend* backend = malloc(sizeof *backend);
    backend->cpu = ((struct backend * (*)(struct device*, const char*)) host->function[DEV_INIT])(host, params);
    backend->guid    = backend->cpu->guid;
    backend->device  = device;
    backend->context = backend->cpu->context;
    memset(backend->function, 0, sizeof backend->function);
    backend->function[BACKEND_NAME]    = backend_name;
    backend->function[BACKEND_FREE]    = backend_free;
    backend->function[BACKEND_COMPUTE] = backend_compute;
    tell("init", device);
    return backend;
}

static const char* device_name(struct device* device) {
    return device->name;
}

static const char* device_description(struct device* device) {
    return device->description;
}

static void device_memory(struct device* device, size_t* free_bytes, size_t* total) {
    *free_bytes = *total = device->memory;
}

static int device_type(struct device* device) {
    return device->type;
}

static void device_props(struct device* device, struct props* props) {
    struct device* host = cpu();
    ((void (*)(struct device*, struct props*))host->function[DEV_PROPS])(host, props);
    props->name        = device->name;
    props->description = device->description;
    props->type        = device->type;
}

static void* device_buffer(struct device* device) {
    struct device* host = cpu();
    (void)device;
    return ((void* (*)(struct device*))host->function[DEV_BUFFER])(host);
}

static bool device_supports(struct device* device, const struct tensor* operation) {
    struct device* host = cpu();
    const char* cannot  = getenv("STUB_CANNOT");
    (void)device;
    if (cannot != NULL && strcmp(ggml_op_name(operation->op), "MUL_MAT") == 0 &&
        strcmp(ggml_type_name(operation->src[0]->type), cannot) == 0) {
        return false;
    }
    return ((bool (*)(struct device*, const struct tensor*))host->function[DEV_SUPPORTS_OP])(host, operation);
}

static bool device_supports_buffer(struct device* device, void* type) {
    struct device* host = cpu();
    (void)device;
    return ((bool (*)(struct device*, void*))host->function[DEV_SUPPORTS_BUFFER])(host, type);
}

static const char* reg_name(struct reg* reg) {
    (void)reg;
    return NAME;
}

static size_t reg_count(struct reg* reg) {
    (void)reg;
    return count;
}

static struct device* reg_device(struct reg* reg, size_t index) {
    (void)reg;
    return &devices[index];
}

static void* reg_address(struct reg* reg, const char* name) {
    (void)reg;
    (void)name;
    return NULL;
}

static struct reg registry = {2, {reg_name, reg_count, reg_device, reg_address}, NULL};

static void add(const char* type, int gibibytes) {
    struct device* device = &devices[count];
    snprintf(device->name, sizeof device->name, "%s%zu", NAME, count);
    snprintf(device->description, sizeof device->description, "card %zu of %d GiB", count, gibibytes);
    device->type                          = strcmp(type, "igpu") == 0 ? 2 : 1;
    device->memory                        = (size_t)gibibytes << 30;
    device->reg                           = &registry;
    device->function[DEV_NAME]            = device_name;
    device->function[DEV_DESCRIPTION]     = device_description;
    device->function[DEV_MEMORY]          = device_memory;
    device->function[DEV_TYPE]            = device_type;
    device->function[DEV_PROPS]           = device_props;
    device->function[DEV_INIT]            = device_init;
    device->function[DEV_BUFFER]          = device_buffer;
    device->function[DEV_SUPPORTS_OP]     = device_supports;
    device->function[DEV_SUPPORTS_BUFFER] = device_supports_buffer;
    count++;
}

struct reg* ggml_backend_init(void) {
    const char* asked = getenv("STUB_" NAME);
    char list[256], type[16];
    int gibibytes;
    if (count == 0 && asked != NULL) {
        snprintf(list, sizeof list, "%s", asked);
        for (char* word = strtok(list, ","); word != NULL; word = strtok(NULL, ",")) {
            if (sscanf(word, "%15[a-z]:%d", type, &gibibytes) == 2) {
                if (strcmp(type, "crash") == 0) {
                    abort();
                }
                add(type, gibibytes);
            }
        }
    }
    return &registry;
}
