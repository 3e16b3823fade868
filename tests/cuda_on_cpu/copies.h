// Copies from global to shared memory that a thread does not wait for. A GPU may do them at any time up to
// the wait; here they are done as late as that, and their target holds NaN until then. So a missing or too
// weak wait shows, and so does a write to the source before the wait.

#pragma once

#include <string.h>

#include <deque>
#include <vector>

namespace fibers {

// The copies of one thread, in groups.
class Copies {
 public:
  void begin(void* to, const void* from, size_t bytes) {
    memset(to, 0xff, bytes);
    open_.push_back({to, from, bytes});
  }

  void end_group() {
    groups_.push_back(std::move(open_));
    open_.clear();
  }

  // Does all groups but the last `pending`.
  void wait(size_t pending) {
    for (; groups_.size() > pending; groups_.pop_front()) {
      for (const Copy& copy : groups_.front()) memcpy(copy.to, copy.from, copy.bytes);
    }
  }

  // Whether there are copies that the thread has not waited for.
  bool are_pending() const {
    bool found = !open_.empty();
    for (const auto& group : groups_) found |= !group.empty();
    return found;
  }

 private:
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
  };

  std::vector<Copy> open_;
  std::deque<std::vector<Copy>> groups_;
};

}  // namespace fibers
