// The sdg_ functions for backend plug-ins and their devices, over ggml's registry.
#include <string>
#include <vector>

#include "engine/interrupts.hpp"
#include "ggml-backend.h"
#include "guarded_call.hpp"

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace {

#if defined(_WIN32)
using library = HMODULE;

library open_library(const char* path) {
    std::wstring wide(MultiByteToWideChar(CP_UTF8, 0, path, -1, nullptr, 0), L'\0');
    MultiByteToWideChar(CP_UTF8, 0, path, -1, &wide[0], static_cast<int>(wide.size()));
    return LoadLibraryW(wide.c_str());
}

void* symbol(library handle, const char* name) {
    return reinterpret_cast<void*>(GetProcAddress(handle, name));
}

void close_library(library handle) {
    FreeLibrary(handle);
}
#else
using library = void*;

library open_library(const char* path) {
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

void* symbol(library handle, const char* name) {
    return dlsym(handle, name);
}

void close_library(library handle) {
    dlclose(handle);
}
#endif

using score_function = int (*)();
using round_function = void (*)(int);

std::vector<ggml_backend_reg_t> gpu_backends;  // all that were loaded, registered now or not
std::vector<round_function> round_products;    // of each CPU backend: cpu/operations.cpp

bool is_cpu(ggml_backend_reg_t backend) {
    return std::string(ggml_backend_reg_name(backend)) == "CPU";
}

const char* type_name(ggml_backend_dev_t device) {
    switch (ggml_backend_dev_type(device)) {
        case GGML_BACKEND_DEVICE_TYPE_CPU:
            return "cpu";
        case GGML_BACKEND_DEVICE_TYPE_GPU:
            return "gpu";
        case GGML_BACKEND_DEVICE_TYPE_IGPU:
            return "igpu";
        default:
            return "accel";
    }
}

// Removes the backend and its devices from the registry, a device that was registered alone too.
void unregister(ggml_backend_reg_t backend) {
    ggml_backend_register(backend);
    ggml_backend_unload(backend);
}

}  // namespace

using sdcffi::guard;

int sdg_backend_score(const char* path) {
    library handle = open_library(path);
    if (handle == nullptr) {
        return 0;
    }
    auto score       = reinterpret_cast<score_function>(symbol(handle, "ggml_backend_score"));
    const int result = score != nullptr ? score() : 1;
    close_library(handle);
    return result;
}

sdg_status sdg_load_backend(const char* path, sdg_error* error) {
    return guard(error, [&] {
        ggml_backend_reg_t backend = ggml_backend_load(path);
        if (backend == nullptr) {
            return false;
        }
        library handle = open_library(path);  // never closed: its code must stay loaded after ggml_backend_unload
        if (!is_cpu(backend)) {
            gpu_backends.push_back(backend);
        } else if (void* function = symbol(handle, "sdcffi_round_products")) {
            round_products.push_back(reinterpret_cast<round_function>(function));
        }
        return true;
    });
}

size_t sdg_device_count(void) {
    return ggml_backend_dev_count();
}

sdg_status sdg_get_device(size_t index, sdg_device* device, sdg_error* error) {
    return guard(error, [&] {
        if (index >= ggml_backend_dev_count()) {
            return false;
        }
        ggml_backend_dev_t dev = ggml_backend_dev_get(index);
        device->name           = ggml_backend_dev_name(dev);
        device->description    = ggml_backend_dev_description(dev);
        device->backend        = ggml_backend_reg_name(ggml_backend_dev_backend_reg(dev));
        device->type           = type_name(dev);
        ggml_backend_dev_memory(dev, &device->memory_free, &device->memory_total);
        return true;
    });
}

sdg_status sdg_offer_device(const char* name, sdg_error* error) {
    return guard(error, [&] {
        ggml_backend_dev_t device = ggml_backend_dev_by_name(name);
        if (device == nullptr) {
            throw sdcffi::Refused(std::string("no device ") + name);
        }
        for (ggml_backend_reg_t backend : gpu_backends) {
            unregister(backend);
        }
        if (!is_cpu(ggml_backend_dev_backend_reg(device))) {
            ggml_backend_device_register(device);
        }
        return true;
    });
}

sdg_status sdg_offer_all_devices(sdg_error* error) {
    return guard(error, [&] {
        for (ggml_backend_reg_t backend : gpu_backends) {
            unregister(backend);
            ggml_backend_register(backend);
        }
        return true;
    });
}

void sdg_round_products(bool may) {
    for (round_function function : round_products) {
        function(may ? 1 : 0);
    }
}
