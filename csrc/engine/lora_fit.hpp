// What the tensors of a LoRA file do to one weight of the model: which are meant for it, and whether they fit.
#ifndef SDCFFI_LORA_FIT_HPP
#define SDCFFI_LORA_FIT_HPP

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "engine_access.hpp"
#include "ggml.h"

namespace sdcffi {

// What one file does to the weights of a model.
struct LoraReport {
    std::string path;
    float multiplier   = 1.f;
    bool is_high_noise = false;
    size_t total       = 0;
    std::set<std::string> applied;
    std::set<std::string> skipped;
    std::vector<std::string> misfits;  // "weight: reason"
    std::set<std::string> types;       // of the weights that it is for
    bool immediately = false;
    double seconds   = 0;
};

// The tensors of a file that are meant for one weight of the model.
class Fit {
public:
    Fit(const LoraModel& lora, const std::string& name, const ggml_tensor* weight)
        : lora_(lora), name_(name), weight_(weight) {}

    // Adds the names of these tensors to `report`, and the misfit if they do not fit. Returns whether there are any.
    bool examine(LoraReport& report) {
        int64_t elements = 0;
        for (int index = 0;; index++) {
            const std::string key = "lora." + name_ + (index == 0 ? "" : "." + std::to_string(index));
            const int64_t part    = lora_part(key) + diff_part(key) + loha_part(key) + lokr_part(key);
            if (part == 0) {
                break;
            }
            elements += part;
        }
        if (used_.empty()) {
            return false;
        }
        if (reason_.empty() && elements != ggml_nelements(weight_) && !can_pad(elements)) {
            reason_ = "makes a difference of " + std::to_string(elements) + " elements, the weight has shape " + shape(weight_);
        }
        if (!reason_.empty()) {
            report.misfits.push_back(name_ + ": " + reason_);
        }
        report.applied.insert(used_.begin(), used_.end());
        report.types.insert(ggml_type_name(weight_->type));
        return true;
    }

private:
    static std::string shape(const ggml_tensor* tensor) {
        std::string text = "(";
        for (int i = ggml_n_dims(tensor) - 1; i >= 0; i--) {
            text += std::to_string(tensor->ne[i]) + (i > 0 ? ", " : ")");
        }
        return text;
    }

    const ggml_tensor* take(const std::string& name) {
        auto found = lora_.lora_tensors.find(name);
        if (found == lora_.lora_tensors.end()) {
            return nullptr;
        }
        used_.insert(name);
        return found->second;
    }

    // Upstream pads a difference with fewer rows than the weight: it is for some of several stacked projections.
    bool can_pad(int64_t elements) const {
        return ggml_n_dims(weight_) == 2 && elements < ggml_nelements(weight_) && elements % weight_->ne[0] == 0;
    }

    void misfit(const std::string& reason) {
        if (reason_.empty()) {
            reason_ = reason;
        }
    }

    static int64_t last(const ggml_tensor* tensor) {
        return tensor->ne[std::max(ggml_n_dims(tensor), 2) - 1];
    }

    // down: (rank, inputs...), up: (outputs, rank), mid: (rank, rank, kernel). Returns the elements of their product.
    int64_t product(const ggml_tensor* down, const ggml_tensor* up, const ggml_tensor* mid) {
        const int64_t rank   = lora_rank(down);
        const int64_t inputs = ggml_nelements(down) / rank, outputs = last(up);
        if (ggml_nelements(up) != outputs * rank) {
            misfit("up " + shape(up) + " and down " + shape(down) + " differ in rank");
        }
        return inputs * outputs * (mid != nullptr ? ggml_nelements(mid) / (rank * rank) : 1);
    }

    int64_t lora_part(const std::string& key) {
        if (lora_.lora_tensors.count(key + ".lora_up") == 0 || lora_.lora_tensors.count(key + ".lora_down") == 0) {
            return 0;
        }
        const ggml_tensor *up = take(key + ".lora_up"), *down = take(key + ".lora_down"), *mid = take(key + ".lora_mid");
        if (take(key + ".scale") == nullptr) {
            take(key + ".alpha");
        }
        if (mid == nullptr && ggml_nelements(down) / lora_rank(down) != ggml_nelements(weight_) / last(weight_)) {
            misfit("down " + shape(down) + " does not fit the weight of shape " + shape(weight_));
        }
        return product(down, up, mid);
    }

    int64_t diff_part(const std::string& key) {
        const ggml_tensor* diff = take(key + ".diff");
        return diff != nullptr ? ggml_nelements(diff) : 0;
    }

    int64_t loha_part(const std::string& key) {
        for (const char* suffix : {".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b"}) {
            if (lora_.lora_tensors.count(key + suffix) == 0) {
                return 0;
            }
        }
        const ggml_tensor *up = take(key + ".hada_w1_a"), *down = take(key + ".hada_w1_b");
        const ggml_tensor *up2 = take(key + ".hada_w2_a"), *down2 = take(key + ".hada_w2_b");
        const ggml_tensor *mid = take(key + ".hada_t1"), *mid2 = take(key + ".hada_t2");
        take(key + ".alpha");
        if (mid != nullptr || mid2 != nullptr) {
            return mid != nullptr && mid2 != nullptr ? ggml_nelements(weight_) : 0;  // Tucker: transposed by upstream
        }
        const int64_t first = product(down, up, nullptr), second = product(down2, up2, nullptr);
        if (first != second) {
            misfit("the two products of a LoHa differ in size");
        }
        return first;
    }

    int64_t lokr_part(const std::string& key) {
        auto factor = [&](const std::string& name) -> int64_t {
            if (const ggml_tensor* whole = take(name)) {
                return ggml_nelements(whole);
            }
            if (lora_.lora_tensors.count(name + "_a") == 0 || lora_.lora_tensors.count(name + "_b") == 0) {
                return 0;
            }
            const ggml_tensor *up = take(name + "_a"), *down = take(name + "_b");
            return product(down, up, nullptr);
        };
        const int64_t elements = factor(key + ".lokr_w1") * factor(key + ".lokr_w2");
        if (elements != 0) {
            take(key + ".alpha");
        }
        return elements;
    }

    const LoraModel& lora_;
    const std::string& name_;
    const ggml_tensor* weight_;
    std::set<std::string> used_;
    std::string reason_;
};

}  // namespace sdcffi

#endif
