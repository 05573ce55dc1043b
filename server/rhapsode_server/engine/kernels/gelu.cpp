// GELU by its tanh form, which is what GPT-2 was trained with.

#include <algorithm>

#include "simd.h"

using namespace rhapsode;

namespace {

constexpr int64_t PIECE = 4096;  // floats of a task: in and out they fit the first cache

INLINE Floats gelu(Floats x) { return 0.5f * x * (1.0f + tanh(0.797884561f * (x + 0.044715f * x * x * x))); }

CLONES void gelu_piece(const float* input, float* out, int64_t length) {
    int64_t i = 0;
    for (; i + LANES <= length; i += LANES) store(out + i, gelu(load(input + i)));
    if (i == length) return;
    float rest[LANES] = {};
    std::copy(input + i, input + length, rest);
    store(rest, gelu(load(rest)));
    std::copy(rest, rest + length - i, out + i);
}

}  // namespace

extern "C" void rhapsode_gelu(const float* input, float* out, int64_t length) {
    for_each_task((length + PIECE - 1) / PIECE, true, [=](int64_t task) {
        gelu_piece(input + task * PIECE, out + task * PIECE, std::min(PIECE, length - task * PIECE));
    });
}
