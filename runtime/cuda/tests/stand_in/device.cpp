// Runs kernels that a host compiler compiled: block after block, each thread of a block a fiber of its own.
//
//   STAND_IN_ORDER   `backwards` runs the threads of a block from the last to the first [forwards]

#include "device.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace stand_in {

Thread *current;
Dim block_index, block_size, grid_size;
unsigned char *dynamic_shared;

namespace {

constexpr size_t STACK = 64 << 10;
constexpr uint64_t GUARD = 0x5afe57ac5afe57ac;

#if defined(__x86_64__)
using Context = void *;
extern "C" void stand_in_switch(void **from, void *to);
// What a called function must keep is kept on the stack that is left.
asm(R"(
.text
.globl stand_in_switch
.hidden stand_in_switch
.type stand_in_switch, @function
stand_in_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size stand_in_switch, .-stand_in_switch
)");
void change(Context &from, Context &to) { stand_in_switch(&from, to); }
void prepare(Context &context, unsigned char *stack, void (*entry)()) {
    // Aligned as after a call; six registers below the entry.
    auto *top = reinterpret_cast<uint64_t *>(stack + STACK) - 1;
    *top = 0;
    *--top = reinterpret_cast<uint64_t>(entry);
    top -= 6;
    std::fill(top, top + 6, 0);
    context = top;
}
#else
using Context = ucontext_t;
void change(Context &from, Context &to) { swapcontext(&from, &to); }
void prepare(Context &context, unsigned char *stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
#endif

struct Barrier {
    unsigned expected = 0, arrived = 0, generation = 0;
};

struct Fiber {
    Thread thread;
    Context context;
    unsigned char *stack = nullptr;
    bool is_done = false;
    Barrier *waits_for = nullptr;
    unsigned generation = 0;
};

struct Warp {
    Barrier barrier;
    Words words[2][LANES];
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
Barrier block_barrier;
Context scheduler;
Fiber *running;
const char *kernel_name = "";
void (*call)(void **);
void **call_arguments;

void enter() {
    call(call_arguments);
    running->is_done = true;
    change(running->context, scheduler);
    abort();
}

void wait(Barrier &barrier) {
    Fiber *self = running;
    self->generation = barrier.generation;
    if (++barrier.arrived == barrier.expected) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    self->waits_for = &barrier;
    change(self->context, scheduler);
}

void run_block(unsigned num_threads, bool backwards) {
    block_barrier = {num_threads, 0, 0};
    for (Warp &warp : warps) warp.barrier = {LANES, 0, 0};
    for (unsigned i = 0; i < num_threads; ++i) {
        Fiber &fiber = fibers[i];
        fiber.is_done = false;
        fiber.waits_for = nullptr;
        std::memcpy(fiber.stack, &GUARD, sizeof GUARD);
        prepare(fiber.context, fiber.stack, enter);
    }
    unsigned done = 0;
    while (done < num_threads) {
        bool has_moved = false;
        for (unsigned i = 0; i < num_threads; ++i) {
            Fiber &fiber = fibers[backwards ? num_threads - 1 - i : i];
            if (fiber.is_done || (fiber.waits_for && fiber.waits_for->generation == fiber.generation)) continue;
            fiber.waits_for = nullptr;
            running = &fiber;
            current = &fiber.thread;
            change(scheduler, fiber.context);
            has_moved = true;
            done += fiber.is_done;
        }
        if (!has_moved) refuse("threads that wait for what never comes");
    }
    for (unsigned i = 0; i < num_threads; ++i) {
        uint64_t guard;
        std::memcpy(&guard, fibers[i].stack, sizeof guard);
        if (guard != GUARD) refuse("a larger stack");
    }
}

template <class... Types, size_t... Index>
void unpack(void (*kernel)(Types...), void **arguments, std::index_sequence<Index...>) {
    kernel(*reinterpret_cast<std::remove_reference_t<Types> *>(arguments[Index])...);
}

template <auto Kernel, class... Types> void call_with(void (*)(Types...), void **arguments) {
    unpack<Types...>(Kernel, arguments, std::index_sequence_for<Types...>{});
}

// Copies of a kernel's arguments, for graphs.
template <class... Types, size_t... Index>
void **keep(void (*)(Types...), void **arguments, std::index_sequence<Index...>) {
    return new void *[sizeof...(Types)]{new std::remove_reference_t<Types>(*reinterpret_cast<std::remove_reference_t<Types> *>(arguments[Index]))...};
}

template <class... Types> void **keep_all(void (*kernel)(Types...), void **arguments) {
    return keep(kernel, arguments, std::index_sequence_for<Types...>{});
}

template <class... Types, size_t... Index>
void drop(void (*)(Types...), void **arguments, std::index_sequence<Index...>) {
    (delete reinterpret_cast<std::remove_reference_t<Types> *>(arguments[Index]), ...);
    delete[] arguments;
}

template <class... Types> void drop_all(void (*kernel)(Types...), void **arguments) {
    drop(kernel, arguments, std::index_sequence_for<Types...>{});
}

template <auto Kernel> void **keep_arguments(void **arguments) { return keep_all(Kernel, arguments); }
template <auto Kernel> void drop_arguments(void **arguments) { drop_all(Kernel, arguments); }
template <auto Kernel> void call_kernel(void **arguments) { call_with<Kernel>(Kernel, arguments); }

float e2m1(uint32_t code) {
    static const float magnitudes[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    return (code & 8 ? -1.0f : 1.0f) * magnitudes[code & 7];
}

float ue4m3(uint32_t code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    return exponent == 0 ? std::ldexp((float)mantissa, -9) : std::ldexp(8.0f + mantissa, exponent - 10);
}

// What a lane gives to m16n8k64: its registers and its scales.
constexpr unsigned A = 0, B = 4, A_SCALES = 6, B_SCALES = 7;

} // namespace

void refuse(const char *what) {
    std::fprintf(stderr, "stand-in: %s asks for %s\n", kernel_name, what);
    abort();
}

void meet_block() { wait(block_barrier); }

const Words *exchange(const Words &mine) {
    Warp &warp = warps[current->warp];
    Words *words = warp.words[warp.barrier.generation % 2];
    words[current->lane] = mine;
    wait(warp.barrier);
    return words;
}

// Row and column of D of a lane's register.
unsigned row_of_d(unsigned lane, unsigned reg) { return lane / 4 + 8 * (reg / 2); }
unsigned column_of_d(unsigned lane, unsigned reg) { return lane % 4 * 2 + reg % 2; }

// Every lane gives numbers rather than registers: two for each of four registers of A, then two for each of two of B.
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
    Words mine;
    for (unsigned i = 0; i < 6; ++i) {
        const uint32_t word = i < 4 ? a[i] : b[i - 4];
        mine.word[2 * i] = word << 16;
        mine.word[2 * i + 1] = word & 0xffff0000u;
    }
    const Words *all = exchange(mine);
    auto number = [&](unsigned lane, unsigned i) { return (double)__uint_as_float(all[lane].word[i]); };
    for (unsigned reg = 0; reg < 4; ++reg) {
        const unsigned row = row_of_d(current->lane, reg), column = column_of_d(current->lane, reg);
        double sum = 0;
        // The four lanes of the row's quad and of the column's have the same places along the inner side.
        for (unsigned t = 0; t < 4; ++t) {
            for (unsigned half = 0; half < 2; ++half) {
                for (unsigned i = 0; i < 2; ++i) {
                    const unsigned of_a = 2 * (row / 8 + 2 * half) + i, of_b = 8 + 2 * half + i;
                    sum += number(row % 8 * 4 + t, of_a) * number(column * 4 + t, of_b);
                }
            }
        }
        d[reg] = (float)(sum + c[reg]);
    }
}

void mma_nvfp4(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], uint32_t a_scales,
               uint32_t b_scales) {
    Words mine{};
    std::memcpy(&mine.word[A], a, sizeof a);
    std::memcpy(&mine.word[B], b, sizeof b);
    mine.word[A_SCALES] = a_scales;
    mine.word[B_SCALES] = b_scales;
    const Words *all = exchange(mine);
    for (unsigned reg = 0; reg < 4; ++reg) {
        const unsigned row = row_of_d(current->lane, reg), column = column_of_d(current->lane, reg);
        // The scales of rows 8 to 15 are given by the second lane of a quad.
        const uint32_t row_scales = all[row % 8 * 4 + row / 8].word[A_SCALES], column_scales = all[column * 4].word[B_SCALES];
        double sum = 0;
        for (unsigned t = 0; t < 4; ++t) {
            for (unsigned half = 0; half < 2; ++half) {
                const uint32_t of_a = all[row % 8 * 4 + t].word[A + row / 8 + 2 * half], of_b = all[column * 4 + t].word[B + half];
                // Eight neighbours share a scale.
                const unsigned block = (8 * t + 32 * half) / 16;
                const double scale = (double)ue4m3(row_scales >> (8 * block) & 255) * ue4m3(column_scales >> (8 * block) & 255);
                for (unsigned i = 0; i < 8; ++i) {
                    sum += scale * e2m1(of_a >> (4 * i) & 15) * e2m1(of_b >> (4 * i) & 15);
                }
            }
        }
        d[reg] = (float)(sum + c[reg]);
    }
}

} // namespace stand_in

#define KINDLING_STAND_IN 1
#include "kernels.cu"

namespace stand_in {
namespace {

struct Kernel {
    const char *name;
    void (*call)(void **);
    void **(*keep)(void **);
    void (*drop)(void **);
};
const Kernel KERNELS[] = {
#define NAMED(name) {#name, call_kernel<name>, keep_arguments<name>, drop_arguments<name>}
#include "kernel_names.inc"
#undef NAMED
};

} // namespace
} // namespace stand_in

extern "C" const void *stand_in_kernel(const char *name) {
    for (const auto &kernel : stand_in::KERNELS) {
        if (std::string(kernel.name) == name) return &kernel;
    }
    return nullptr;
}

extern "C" void **stand_in_keep_arguments(const void *kernel, void **arguments) {
    return static_cast<const stand_in::Kernel *>(kernel)->keep(arguments);
}

extern "C" void stand_in_drop_arguments(const void *kernel, void **arguments) {
    static_cast<const stand_in::Kernel *>(kernel)->drop(arguments);
}

// A thread that has too much stays in its warp: sizes of blocks are multiples of 32 here.
extern "C" void stand_in_launch(const void *kernel, const unsigned *grid, const unsigned *block, unsigned shared, void **arguments) {
    using namespace stand_in;
    const auto *chosen = static_cast<const Kernel *>(kernel);
    kernel_name = chosen->name;
    const unsigned num_threads = block[0] * block[1] * block[2];
    if (num_threads == 0 || num_threads > 1024 || num_threads % LANES != 0) refuse("a block of this size");
    while (fibers.size() < num_threads) {
        fibers.emplace_back();
        fibers.back().stack = static_cast<unsigned char *>(aligned_alloc(64, STACK));
    }
    warps.resize(num_threads / LANES);
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    for (unsigned i = 0; i < num_threads; ++i) {
        fibers[i].thread = {{i % block[0], i / block[0] % block[1], i / block[0] / block[1]}, i % LANES, i / LANES};
    }
    const char *order = getenv("STAND_IN_ORDER");
    const bool backwards = order && std::string(order) == "backwards";
    call = chosen->call;
    call_arguments = arguments;
    // What a block finds in shared memory is no number, and what it writes beyond it is found.
    std::vector<unsigned char> memory(shared + 128);
    for (unsigned z = 0; z < grid[2]; ++z) {
        for (unsigned y = 0; y < grid[1]; ++y) {
            for (unsigned x = 0; x < grid[0]; ++x) {
                block_index = {x, y, z};
                std::fill(memory.begin(), memory.end(), 0xff);
                dynamic_shared = reinterpret_cast<unsigned char *>((reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~uintptr_t(63));
                run_block(num_threads, backwards);
                for (unsigned char *after = dynamic_shared + shared; after != memory.data() + memory.size(); ++after) {
                    if (*after != 0xff) refuse("more shared memory than it was given");
                }
            }
        }
    }
}
