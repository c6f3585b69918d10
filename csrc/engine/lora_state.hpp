// The LoRAs of a context: their plans, the files that were read, and what is applied now.
#ifndef SDCFFI_LORA_STATE_HPP
#define SDCFFI_LORA_STATE_HPP

#ifndef _WIN32
#include <sys/stat.h>
#endif

#include <filesystem>
#include <iterator>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine_access.hpp"
#include "guard/guard.h"
#include "lora_planning.hpp"

namespace sdcffi {

// What one file does to the weights of a model.
struct LoraReport {
    std::string path;
    float multiplier   = 1.f;
    bool is_high_noise = false;
    std::shared_ptr<const LoraPlan> plan;
    std::unique_ptr<bool[]> applied;   // for each module
    std::vector<std::string> misfits;  // "weight: reason"
    std::set<std::string> types;       // of the weights that it is for
    bool immediately = false;
    double seconds   = 0;
};

// The files that were read, the most recently used first. Together they have at most `limit` bytes.
class LoraCache {
public:
    // Returns the file if all of the wanted tensors were read.
    std::shared_ptr<const LoraFile> find(const std::string& key, const std::set<std::string>& wanted) {
        for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
            if (entry->key == key && entry->wanted == wanted) {
                entries_.splice(entries_.begin(), entries_, entry);
                return entries_.front().file;
            }
        }
        return nullptr;
    }

    void keep(const std::string& key, const std::set<std::string>& wanted, std::shared_ptr<const LoraFile> file) {
        entries_.push_front({key, wanted, std::move(file)});
        size_t sum = 0;
        for (auto entry = entries_.begin(); entry != entries_.end();) {
            sum += entry->file->bytes();
            // The newest always stays: it is about to be used.
            entry = sum > limit && entry != entries_.begin() ? entries_.erase(entry) : std::next(entry);
        }
    }

    size_t limit = size_t(1) << 30;

private:
    struct Entry {
        std::string key;
        std::set<std::string> wanted;
        std::shared_ptr<const LoraFile> file;
    };
    std::list<Entry> entries_;
};

// One LoRA of a call. The key changes when the file does.
struct LoraRequest {
    std::string path;
    float multiplier;
    bool is_high_noise;
    std::string prefix;  // of the tensors that are wanted; only an adapter of the engine's own has one
    std::string key;

    LoraRequest(const std::string& path, float multiplier, bool is_high_noise, const std::string& prefix)
        : path(path), multiplier(multiplier), is_high_noise(is_high_noise), prefix(prefix) {
        const auto file = std::filesystem::u8path(path);
        std::error_code error;
        const auto size = std::filesystem::file_size(file, error);
        const auto time = std::filesystem::last_write_time(file, error).time_since_epoch().count();
        key = path + "|" + std::to_string(size) + "|" + std::to_string(time) + "|" + identity(path) + "|" + prefix;
    }

    // What tells a file from another of the same size and time, such as `cp -p` makes. Windows has no such numbers.
    static std::string identity(const std::string& path) {
#ifdef _WIN32
        return "";
#else
        struct stat status;
        if (::stat(path.c_str(), &status) != 0) {
            return "";
        }
#ifdef __APPLE__
        const auto& changed = status.st_ctimespec;
#else
        const auto& changed = status.st_ctim;
#endif
        return std::to_string(status.st_ino) + "." + std::to_string(changed.tv_sec) + "." + std::to_string(changed.tv_nsec);
#endif
    }

    template <typename Lora>
    explicit LoraRequest(const Lora& lora) : LoraRequest(lora.path, lora.multiplier, lora.is_high_noise, prefix_wanted(lora)) {}
};

// A LoRA as it is applied.
struct Adapter {
    LoraRequest request;
    std::shared_ptr<const LoraPlan> plan;
    std::shared_ptr<const LoraFile> file;
    double seconds = 0;  // to read the file, if it was read

    bool operator==(const Adapter& other) const {
        return request.key == other.request.key && request.multiplier == other.request.multiplier &&
               request.is_high_noise == other.request.is_high_noise && *plan == *other.plan;
    }
};

// The LoRAs of a context.
struct LoraState {
    LoraCache cache;
    Weights weights;
    std::unique_ptr<WeightReader> files;  // of the model
    std::map<std::pair<std::string, bool>, std::shared_ptr<const LoraPlan>> plans;  // by path and is_high_noise
    std::vector<Adapter> applied;  // merged or attached now
    Weights touched;               // those that differ from the model's files
    bool changing = false;         // weights are being changed, or were when a call was interrupted
    bool can_merge = true;         // weights stay where they are, and can be written
    std::unique_ptr<Merger> merger;
    std::vector<std::shared_ptr<LoraBeside>> attached;
    std::vector<LoraReport> reports;
    std::vector<LoraReport> checked;
    // What the sdg_ functions return; the next call of the same kind replaces it.
    std::vector<sdg_lora_report> rows;
    std::list<std::vector<const char*>> texts;
    std::vector<sdg_tensor> tensors;
    std::list<std::string> names;

    Merger& merging(int threads) {
        if (merger == nullptr) {
            merger = std::make_unique<Merger>(threads);
        }
        return *merger;
    }
};

}  // namespace sdcffi

#endif
