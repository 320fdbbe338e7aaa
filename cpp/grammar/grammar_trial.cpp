#include "grammar/grammar_trial.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace starchat {
namespace {

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0  // macOS: an option of the socket
#endif

// move(bytes, n) sends or receives up to n bytes without waiting; event: what it waits for.
template <class Move>
bool move_all(int socket, short event, char* bytes, size_t size, TrialClock::time_point until,
              const Move& move) {
  while (size > 0) {
    const ssize_t n = move(bytes, size);
    if (n > 0) {
      bytes += n;
      size -= static_cast<size_t>(n);
      continue;
    }
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) return false;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - TrialClock::now());
    if (left.count() <= 0) return false;
    pollfd waiting{socket, event, 0};
    poll(&waiting, 1, static_cast<int>(std::min<int64_t>(left.count(), 3'600'000)));
  }
  return true;
}

}  // namespace

bool send_all(int socket, const void* data, size_t size, TrialClock::time_point until) {
  char* const bytes = static_cast<char*>(const_cast<void*>(data));
  return move_all(socket, POLLOUT, bytes, size, until, [&](char* from, size_t n) {
    return send(socket, from, n, MSG_NOSIGNAL | MSG_DONTWAIT);
  });
}

bool receive_all(int socket, void* data, size_t size, TrialClock::time_point until) {
  return move_all(socket, POLLIN, static_cast<char*>(data), size, until,
                  [&](char* to, size_t n) { return recv(socket, to, n, MSG_DONTWAIT); });
}

}  // namespace starchat
