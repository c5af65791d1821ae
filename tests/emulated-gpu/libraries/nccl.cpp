// NCCL: sends and receives in groups, between processes of this machine, by sockets. As on a device, a group is done when the
// stream comes to it, which is at once. A group that not all ranks enter waits for ever, as NCCL's does.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "state.h"

// as nccl.h has them, which is no part of the toolkit
extern "C" {
typedef struct {
    char internal[128];
} ncclUniqueId;
typedef struct Communicator* ncclComm_t;
}

struct Communicator {
    int rank;
    std::vector<int> peers;
};

namespace {

enum { kSuccess = 0, kSystemError = 2, kInvalidArgument = 4, kInvalidUsage = 5 };

struct Transfer {
    bool send;
    char* at;
    size_t bytes;
    int peer;
    Communicator* by;
};
thread_local std::vector<Transfer> group;
thread_local int depth;

socklen_t name_of(const ncclUniqueId& id, int rank, sockaddr_un* address) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    // an abstract name: gone with its process
    int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "emulated-nccl-%.32s-%d", id.internal, rank);
    return offsetof(sockaddr_un, sun_path) + 1 + length;
}

bool whole(ssize_t (*move)(int, char*, size_t), int socket, char* at, size_t bytes) {
    while (bytes) {
        ssize_t moved = move(socket, at, bytes);
        if (moved <= 0) return false;
        at += moved;
        bytes -= moved;
    }
    return true;
}
ssize_t put(int socket, char* at, size_t bytes) { return send(socket, at, bytes, MSG_NOSIGNAL); }
ssize_t take(int socket, char* at, size_t bytes) { return read(socket, at, bytes); }

// All at a time, each peer's in their order: two ranks may send to each other before they receive.
int run(std::vector<Transfer> transfers) {
    for (auto& t : transfers) {
        emulated_gpu_count(t.send ? "ncclSend" : "ncclRecv", t.bytes);
        emulated_gpu_check_range(reinterpret_cast<uintptr_t>(t.at), t.bytes, t.send ? "ncclSend" : "ncclRecv");
        if (t.send) emulated_gpu_library_read(reinterpret_cast<uintptr_t>(t.at), t.bytes, 1, 0, "ncclSend");
    }
    std::vector<size_t> moved(transfers.size());
    for (;;) {
        std::vector<pollfd> waiting;
        std::vector<size_t> of;
        for (size_t i = 0; i < transfers.size(); i++) {
            const Transfer& t = transfers[i];
            bool first = moved[i] < t.bytes;
            for (size_t j = 0; j < i && first; j++)
                first = transfers[j].peer != t.peer || transfers[j].send != t.send || moved[j] == transfers[j].bytes;
            if (!first) continue;
            waiting.push_back({t.by->peers[t.peer], short(t.send ? POLLOUT : POLLIN), 0});
            of.push_back(i);
        }
        if (waiting.empty()) break;
        if (poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) return kSystemError;
        for (size_t k = 0; k < waiting.size(); k++) {
            if (!waiting[k].revents) continue;
            const Transfer& t = transfers[of[k]];
            char* at = t.at + moved[of[k]];
            size_t rest = t.bytes - moved[of[k]];
            ssize_t n = t.send ? send(waiting[k].fd, at, rest, MSG_NOSIGNAL | MSG_DONTWAIT)
                               : recv(waiting[k].fd, at, rest, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return kSystemError;
            if (n > 0) moved[of[k]] += n;
        }
    }
    for (auto& t : transfers)
        if (!t.send) emulated_gpu_library_wrote(reinterpret_cast<uintptr_t>(t.at), t.bytes, 1, 0);
    return kSuccess;
}

int ask(bool send, void* at, size_t count, int type, int peer, Communicator* by) {
    if (type != 7) emulated_gpu_fail("NCCL: numbers of type %d are not emulated", type);
    if (!by || peer < 0 || size_t(peer) >= by->peers.size() || !at) return kInvalidArgument;
    if (peer == by->rank) emulated_gpu_fail("NCCL: sends to oneself are not emulated");
    Transfer t{send, static_cast<char*>(at), count * 4, peer, by};
    if (depth == 0) return run({t});
    group.push_back(t);
    return kSuccess;
}

}  // namespace

extern "C" {
int ncclGetVersion(int* version) {
    *version = 22703;
    return kSuccess;
}
const char* ncclGetErrorString(int code) {
    switch (code) {
        case kSuccess: return "no error";
        case kSystemError: return "unhandled system error";
        case kInvalidArgument: return "invalid argument";
        case kInvalidUsage: return "invalid usage";
        default: return "unknown result code";
    }
}
int ncclGetUniqueId(ncclUniqueId* id) {
    memset(id, 0, sizeof *id);
    std::random_device random;
    for (int i = 0; i < 4; i++) snprintf(id->internal + 8 * i, 9, "%08x", random());
    return kSuccess;
}
int ncclCommInitRank(ncclComm_t* communicator, int size, ncclUniqueId id, int rank) {
    // as a machine whose second GPU is taken
    if (getenv("EMULATED_NCCL_REFUSES")) return kInvalidUsage;
    if (rank < 0 || rank >= size) return kInvalidArgument;
    auto* made = new Communicator{rank, std::vector<int>(size, -1)};
    sockaddr_un address;
    int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = name_of(id, rank, &address);
    if (listening < 0 || bind(listening, reinterpret_cast<sockaddr*>(&address), length) || listen(listening, size))
        return kSystemError;
    // to the ranks before this one, and from those behind it
    for (int other = 0; other < rank; other++) {
        int connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        length = name_of(id, other, &address);
        while (connect(connected, reinterpret_cast<sockaddr*>(&address), length)) {
            if (errno != ECONNREFUSED && errno != EINTR && errno != EAGAIN) return kSystemError;
            usleep(1000);
        }
        if (!whole(put, connected, reinterpret_cast<char*>(&rank), sizeof rank)) return kSystemError;
        made->peers[other] = connected;
    }
    for (int behind = rank + 1; behind < size; behind++) {
        int accepted = accept(listening, nullptr, nullptr), other = -1;
        if (accepted < 0 || !whole(take, accepted, reinterpret_cast<char*>(&other), sizeof other)) return kSystemError;
        if (other <= rank || other >= size) return kSystemError;
        made->peers[other] = accepted;
    }
    close(listening);
    *communicator = made;
    return kSuccess;
}
int ncclGroupStart() {
    depth++;
    return kSuccess;
}
int ncclGroupEnd() {
    if (depth == 0) return kInvalidUsage;
    if (--depth) return kSuccess;
    std::vector<Transfer> all;
    all.swap(group);
    return run(all);
}
int ncclSend(const void* at, size_t count, int type, int peer, ncclComm_t by, CUstream) {
    return ask(true, const_cast<void*>(at), count, type, peer, by);
}
int ncclRecv(void* at, size_t count, int type, int peer, ncclComm_t by, CUstream) {
    return ask(false, at, count, type, peer, by);
}
}
