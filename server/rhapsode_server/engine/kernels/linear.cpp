// y = x W^T + b in float32. A task is a panel of 64 outputs.
//
// R rows, I inputs, O outputs.

#include "panels.h"

using namespace rhapsode;

namespace {

struct FloatArithmetic {
    using Unit = float;
    using Vector = Floats;
    static INLINE Floats load(const float* from) { return rhapsode::load(from); }
    static INLINE void store(float* to, Floats value) { rhapsode::store(to, value); }
    static INLINE Floats plus_product(Floats sums, float value, Floats weights) { return sums + value * weights; }
};

struct Linear {
    const float *input, *weights, *bias;
    float* out;
    int64_t num_rows, num_inputs, num_outputs;
};

// Rows [first, first + count) through one panel.
INLINE void pass(const Linear& linear, int64_t panel, int64_t first, int64_t count, int64_t next) {
    alignas(64) float sums[MOST_ROWS * PANEL];
    std::fill(sums, sums + count * PANEL, 0.0f);
    const int64_t size = PANEL * linear.num_inputs;
    add_panel<FloatArithmetic>(linear.input + first * linear.num_inputs, count, linear.num_inputs,
                               linear.weights + panel * size, linear.weights + next * size, sums);
    const int64_t output = panel * PANEL, width = std::min(PANEL, linear.num_outputs - output);
    const float* bias = linear.bias ? linear.bias + output : ZEROS;
    for (int64_t row = 0; row < count; ++row) {
        float* out = linear.out + (first + row) * linear.num_outputs + output;
        for_each_of_panel(width, [&](int64_t o) INLINE_LAMBDA { out[o] = sums[row * PANEL + o] + bias[o]; });
    }
}

CLONES void pass_all(const Linear& linear, int64_t panel, int64_t panel_after) {
    for (int64_t first = 0; first < linear.num_rows; first += MOST_ROWS) {
        const int64_t count = std::min(MOST_ROWS, linear.num_rows - first);
        pass(linear, panel, first, count, first + count < linear.num_rows ? panel : panel_after);
    }
}

}  // namespace

extern "C" {

int64_t rhapsode_panel() { return PANEL; }

// Whether this machine and what compiled this have the registers that all of it is made for.
int rhapsode_linear_is_fast() {
#ifdef HAS_CLONES
    return __builtin_cpu_supports("x86-64-v4");
#else
    return 0;
#endif
}

// input [R, I], weights [panels, I, 64], the last panel filled up with zeros, bias [O] or null; out [R, O].
void rhapsode_linear(const float* input, const float* weights, const float* bias, float* out, int64_t num_rows,
                     int64_t num_inputs, int64_t num_outputs) {
    const Linear linear{input, weights, bias, out, num_rows, num_inputs, num_outputs};
    for_each_task_knowing_next(num_panels(num_outputs), true,
                               [&](int64_t panel, int64_t next) { pass_all(linear, panel, next); });
}
}
