// A few rows times a panel of 64 outputs, so that weights are read from memory once and as fast as that allows.
//
// What is multiplied are units of four bytes: a float, or four numbers of 8 bits. A panel's weights lie in the order in
// which they are read: [units of a row, 64]. They pass in blocks that stay in the first cache while all rows go over
// them, six at a time: 24 sums in registers. While one block is computed with, the next is asked for, evenly, since
// memory is what there is least of.
//
// Each output is one sum in one order, so that a row's result does not depend on what stands beside it.
#pragma once

#include <algorithm>

#include "simd.h"

namespace rhapsode {

constexpr int64_t PARTS = 4;
constexpr int64_t PANEL = PARTS * LANES;
constexpr int64_t BLOCK = 128;     // units of a row: 32 kB of weights
constexpr int64_t TALLEST = 6;     // rows of a tile: with PARTS, as many sums as 32 registers hold beside the weights
constexpr int64_t MOST_ROWS = 96;  // of which the sums stay near

// Where the next block is, and how often and how far apart to ask for it.
struct Ahead {
    const void* place;
    int64_t step, times;
};

// Arithmetic has a Unit, a Vector of 16 of them, load, store and plus_product(sums, Unit, weights), which returns sums:
// by reference GCC 12 would keep them in memory.
template <class Arithmetic, int ROWS>
INLINE void add_tile(const typename Arithmetic::Unit* input, int64_t input_stride,
                     const typename Arithmetic::Unit* weights, int64_t depth, typename Arithmetic::Unit* sums,
                     Ahead ahead) {
    typename Arithmetic::Vector total[ROWS][PARTS], weight[PARTS];
#pragma GCC unroll 6
    for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part) total[row][part] = Arithmetic::load(sums + row * PANEL + part * LANES);
    }
    const char* place = static_cast<const char*>(ahead.place);
    for (int64_t i = 0; i < depth; ++i, weights += PANEL) {
        for (int64_t time = 0; time < ahead.times; ++time, place += ahead.step) __builtin_prefetch(place, 0, 2);
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part) weight[part] = Arithmetic::load(weights + part * LANES);
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; ++row) {
            const auto unit = input[row * input_stride + i];
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; ++part) {
                total[row][part] = Arithmetic::plus_product(total[row][part], unit, weight[part]);
            }
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part) Arithmetic::store(sums + row * PANEL + part * LANES, total[row][part]);
    }
}

// The tile that has as many rows as there are.
template <class Arithmetic, int ROWS>
INLINE void add_rows(int64_t num_rows, const typename Arithmetic::Unit* input, int64_t input_stride,
                     const typename Arithmetic::Unit* weights, int64_t depth, typename Arithmetic::Unit* sums,
                     Ahead ahead) {
    if constexpr (ROWS > 1) {
        if (num_rows < ROWS) {
            return add_rows<Arithmetic, ROWS - 1>(num_rows, input, input_stride, weights, depth, sums, ahead);
        }
    }
    add_tile<Arithmetic, ROWS>(input, input_stride, weights, depth, sums, ahead);
}

// Adds to sums [rows, 64] the products of input [rows, units] with a panel; `next` is what will be read after it.
template <class Arithmetic>
INLINE void add_panel(const typename Arithmetic::Unit* input, int64_t num_rows, int64_t num_units,
                      const typename Arithmetic::Unit* weights, const void* next, typename Arithmetic::Unit* sums) {
    const int64_t num_tiles = (num_rows + TALLEST - 1) / TALLEST;
    const int64_t times = (PARTS + num_tiles - 1) / num_tiles;
    const int64_t step = (PANEL * 4 + num_tiles * times - 1) / (num_tiles * times);
    for (int64_t begin = 0; begin < num_units; begin += BLOCK) {
        const int64_t depth = std::min(BLOCK, num_units - begin);
        const auto* block = weights + begin * PANEL;
        Ahead ahead{begin + depth == num_units ? next : block + depth * PANEL, step, times};
        for (int64_t row = 0; row < num_rows; row += TALLEST) {
            add_rows<Arithmetic, TALLEST>(std::min(TALLEST, num_rows - row), input + row * num_units + begin, num_units,
                                          block, depth, sums + row * PANEL, ahead);
            ahead.place = static_cast<const char*>(ahead.place) + depth * times * step;
        }
    }
}

constexpr float ZEROS[PANEL] = {};

// body(o) for the outputs [0, width) of a panel, as vectors: all panels but the last have a width that is known here.
template <class Body>
INLINE void for_each_of_panel(int64_t width, const Body& body) {
    if (width == PANEL) {
#pragma GCC ivdep
        for (int64_t o = 0; o < PANEL; ++o) body(o);
    } else {
        for (int64_t o = 0; o < width; ++o) body(o);
    }
}

INLINE int64_t num_panels(int64_t num_outputs) { return (num_outputs + PANEL - 1) / PANEL; }

}  // namespace rhapsode
