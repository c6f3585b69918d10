// Reuse of results between steps. Upstream's state for dbcache, taylorseer and cache_dit reads its warm-up, its mask and
// its limits, and goes on as without; its three modes are one. OutputCache takes its place. The other states are
// upstream's, and count here. The patched sample-cache.h includes this file after upstream's states.
#ifndef SDCFFI_STEP_CACHE_HPP
#define SDCFFI_STEP_CACHE_HPP

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace sdcffi {

// The network is run more than once in a step for one condition, if layers are skipped. Only its first result counts:
// with a later one a state would hold what the network says without those layers.
class FirstOfStep {
public:
    bool was_computed(const void* condition, int step) const { return step == step_ && conditions_.count(condition) > 0; }

    bool add(const void* condition, int step) {
        if (step != step_) {
            step_ = step;
            conditions_.clear();
        }
        return conditions_.insert(condition).second;
    }

private:
    int step_ = -1;
    std::unordered_set<const void*> conditions_;
};

// One of upstream's states, easycache or ucache.
template <typename State>
struct Counted : State {
    std::vector<int> reused;  // from 1

    bool before_condition(const void* condition, const sd::Tensor<float>& input, sd::Tensor<float>* output, float sigma, int step) {
        if (first_.was_computed(condition, step)) {
            return false;
        }
        const int before     = this->total_steps_skipped;
        const bool is_reused = State::before_condition(condition, input, output, sigma, step);
        if (this->total_steps_skipped > before) {
            reused.push_back(step + 1);
        }
        return is_reused;
    }

    void after_condition(const void* condition, const sd::Tensor<float>& input, const sd::Tensor<float>& output) {
        if (first_.add(condition, this->current_step_index)) {
            State::after_condition(condition, input, output);
        }
    }

private:
    FirstOfStep first_;
};

// Upstream's state, which forecasts what the sampler gets. It counts calls of the sampler, of which some make two in a
// step.
struct Spectrum : SpectrumState {
    std::vector<int> reused;  // from 1

    // Upstream takes a stop after none of the steps for no stop.
    bool should_predict() { return cnt < stop_step && SpectrumState::should_predict(); }

    // Upstream's second forecast goes on by half of the last difference, however far its two results are apart.
    void predict(sd::Tensor<float>* denoised) {
        reused.push_back(cnt + 1);
        const size_t last = H_buf.size() - 1;
        const float steps = (taus(cnt) - T_buf[last]) / (T_buf[last] - T_buf[last - 1]);
        const float more  = (1.0f - config.w) * (steps - 0.5f);
        SpectrumState::predict(denoised);
        float* out = denoised->data();
        for (int64_t i = 0; more != 0 && i < denoised->numel(); i++) {
            out[i] += more * (H_buf[last][i] - H_buf[last - 1][i]);
        }
    }
};

// What the network adds to its input, kept from step to step for each condition.
//     dbcache      reuses it while the input has changed by less than a threshold since it was computed
//     taylorseer   computes one step in so many, and extrapolates it to the others
//     cache_dit    reuses as dbcache, and extrapolates as taylorseer
class OutputCache {
public:
    std::vector<int> reused;  // from 1
    int total_steps_skipped = 0;

    void init(const DBCacheConfig& rules, const TaylorSeerConfig& forecast) {
        rules_    = rules;
        forecast_ = forecast;
    }

    void set_sigmas(const std::vector<float>& sigmas) { steps_ = static_cast<int>(sigmas.size()) - 1; }

    bool enabled() const { return rules_.enabled || forecast_.enabled; }
    bool is_step_skipped() const { return skips_; }

    void begin_step(int step, float) {
        if (step != step_) {
            step_   = step;
            skips_  = false;
            choice_ = choose(step);
        }
    }

    bool before_condition(const void* condition, const sd::Tensor<float>& input, sd::Tensor<float>* output, float sigma, int step) {
        begin_step(step, sigma);
        if (anchor_ == nullptr) {
            anchor_ = condition;
        }
        const auto found = results_.find(condition);
        if (found == results_.end() || found->second.empty() || found->second.back().added.size() != size_t(input.numel())) {
            return false;
        }
        if (!skips_ && condition == anchor_ && !first_.was_computed(condition, step) && reuses(input)) {
            skips_ = true;
            total_steps_skipped++;
            in_a_row_++;
            reused.push_back(step + 1);
        }
        if (skips_) {
            extrapolate(found->second, input, output);
        }
        return skips_;
    }

    void after_condition(const void* condition, const sd::Tensor<float>& input, const sd::Tensor<float>& output) {
        if (input.numel() != output.numel() || !first_.add(condition, step_)) {
            return;
        }
        std::vector<Result>& results = results_[condition];
        results.push_back({step_, difference(output, input)});
        const size_t most = forecast_.enabled ? size_t(std::max(0, forecast_.n_derivatives)) + 1 : 1;
        if (results.size() > most) {
            results.erase(results.begin());
        }
        if (condition == anchor_) {
            input_         = std::vector<float>(input.data(), input.data() + input.numel());
            last_computed_ = step_;
            in_a_row_      = 0;
        }
    }

private:
    enum class Choice { compute, reuse_if_near, reuse };

    struct Result {
        int step;
        std::vector<float> added;  // to the input
    };

    Choice choose(int step) const {
        const std::vector<int>& mask = rules_.steps_computation_mask;
        const bool in_mask           = size_t(step) < mask.size();
        const bool is_needed         = in_mask ? mask[step] != 0 : step < rules_.max_warmup_steps || step + 1 >= steps_;
        const bool is_enough         = reached(rules_.max_cached_steps, total_steps_skipped) ||
                               reached(rules_.max_continuous_cached_steps, in_a_row_);
        if (is_needed || is_enough || last_computed_ < 0) {
            return Choice::compute;
        }
        if (in_mask && !rules_.scm_policy_dynamic) {
            return Choice::reuse;
        }
        if (rules_.enabled) {
            return Choice::reuse_if_near;
        }
        return step - last_computed_ < forecast_.skip_interval_steps ? Choice::reuse : Choice::compute;
    }

    // A negative limit is none.
    static bool reached(int limit, int count) { return limit >= 0 && count >= limit; }

    bool reuses(const sd::Tensor<float>& input) const {
        if (choice_ != Choice::reuse_if_near) {
            return choice_ == Choice::reuse;
        }
        double change = 0, size = 1e-6;
        for (size_t i = 0; i < input_.size(); i++) {
            change += std::fabs(input.data()[i] - input_[i]);
            size += std::fabs(input_[i]);
        }
        return change / size < rules_.residual_diff_threshold;
    }

    static std::vector<float> difference(const sd::Tensor<float>& a, const sd::Tensor<float>& b) {
        std::vector<float> result(a.data(), a.data() + a.numel());
        for (size_t i = 0; i < result.size(); i++) {
            result[i] -= b.data()[i];
        }
        return result;
    }

    // Writes what the polynomial through the results has at this step, added to the input.
    void extrapolate(const std::vector<Result>& results, const sd::Tensor<float>& input, sd::Tensor<float>* output) const {
        *output    = input;
        float* out = output->data();
        for (const Result& result : results) {
            float weight = 1;
            for (const Result& other : results) {
                if (other.step != result.step) {
                    weight *= float(step_ - other.step) / float(result.step - other.step);
                }
            }
            for (size_t i = 0; i < result.added.size(); i++) {
                out[i] += weight * result.added[i];
            }
        }
    }

    DBCacheConfig rules_;
    TaylorSeerConfig forecast_;
    int steps_ = 0;

    int step_            = -1;
    bool skips_          = false;
    Choice choice_       = Choice::compute;
    int last_computed_   = -1;
    int in_a_row_        = 0;  // steps that were reused
    const void* anchor_  = nullptr;  // the condition that decides for all
    std::vector<float> input_;       // of the anchor, where it was last computed
    std::unordered_map<const void*, std::vector<Result>> results_;
    FirstOfStep first_;
};

}  // namespace sdcffi

#endif
