// Threads whose exceptions reach the thread that started them. The guard cancels by an exception, and assertions throw.
#ifndef SDCFFI_THREADS_HPP
#define SDCFFI_THREADS_HPP

#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "engine/interrupts.hpp"

namespace sdcffi {

class Threads {
public:
    // `stop` makes all threads end soon; it is called when one throws, and if the scope is left before join().
    explicit Threads(std::function<void()> stop) : stop_(std::move(stop)) {}
    ~Threads() {
        if (!threads_.empty()) {
            stop_();
            end();
        }
    }
    Threads(const Threads&)            = delete;
    Threads& operator=(const Threads&) = delete;

    void reserve(size_t count) { threads_.reserve(count); }

    template <typename Work>
    void emplace_back(Work work) {
        threads_.emplace_back([this, work, depth = guarded]() mutable {
            Restored<int> caller(guarded, depth);
            std::exception_ptr error;
            try {
                work();
            } catch (...) {
                error = std::current_exception();
                stop_();
            }
            std::lock_guard<std::mutex> lock(mutex_);
            error_ = error_ ? error_ : error;
            ended_++;
            changed_.notify_one();
        });
    }

    // Waits for all threads, but no longer than `time`; returns whether they have ended.
    bool end_within(std::chrono::milliseconds time) {
        std::unique_lock<std::mutex> lock(mutex_);
        return changed_.wait_for(lock, time, [this] { return ended_ == threads_.size(); });
    }

    // Waits for all threads and throws what the first of them threw.
    void join() {
        end();
        if (error_) {
            std::rethrow_exception(error_);
        }
    }

private:
    void end() {
        for (auto& thread : threads_) {
            thread.join();
        }
        threads_.clear();
    }

    std::function<void()> stop_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::exception_ptr error_;
    size_t ended_ = 0;
    std::vector<std::thread> threads_;
};

}  // namespace sdcffi

#endif
