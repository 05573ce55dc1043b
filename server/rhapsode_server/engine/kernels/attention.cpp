// Attention of one new token in each of many sequences, all in one call for a layer.
//
// R rows (sequences), K key-value heads, each with G query heads, H head dimension of keys, V of values, S tokens of a
// sequence with its new one, C tokens that there is room for.
//
// A task is a row and a key-value head: it stores the new key and value, then reads that head's keys once from the
// first to the last, and then its values. That is all the memory there is to read, so the rest is to keep up with it.

#include <algorithm>
#include <cmath>
#include <memory>

#include "simd.h"

using namespace rhapsode;

extern "C" {

// Where a slot's keys [K, C, H] and values [K, C, V] are in one layer; all zero where there are none.
struct Extent {
    float* keys;
    float* values;
    int64_t capacity;
};

// Strides are in floats; those of the last dimension are 1. `out` is [R, N, V] and contiguous.
struct DecodeAttention {
    int64_t num_rows, num_slots, num_key_heads, group, key_dim, value_dim;
    const int64_t* slots;    // [R]
    const int64_t* lengths;  // [R], the new token included
    const Extent* extents;   // [num_slots]
    const float *query, *key, *value;
    int64_t query_head_stride, query_row_stride;
    int64_t key_head_stride, key_row_stride;
    int64_t value_head_stride, value_row_stride;
    float* out;
    const float* sinks;  // [N] or null
    int64_t window;      // 0: none
    float scaling, softcap;  // softcap 0: none
};
}

namespace {

constexpr int64_t WORTH_ALL_THREADS = 16 * 1024;  // floats to read
constexpr int64_t TOKENS_IN_CACHE = 64;
constexpr int64_t FLOATS_AHEAD = 1536;  // to ask for: the machine's own guess ends with each page

struct Head {
    const float *query, *keys, *values;  // [G, H], [tokens, H], [tokens, V]: of the tokens to look at
    int64_t query_stride, num_tokens;
    float* scores;  // [G, padded]
    int64_t padded;  // tokens rounded up to whole vectors
    float* out;      // [G, V]
    const float* next;  // what is read after the values
};

INLINE void prefetch(const float* from, int64_t num_floats) {
    for (int64_t i = 0; i < num_floats; i += LANES) __builtin_prefetch(from + i, 0, 2);
}

// Dot products with several keys, so that as many sums are under way at once.
template <int KEYS>
INLINE void dot(const float* query, const float* keys, int64_t dim, float* scores) {
    Floats products[4] = {};
    int64_t d = 0;
    for (; d + LANES <= dim; d += LANES) {
        const Floats q = load(query + d);
        for (int k = 0; k < KEYS; ++k) products[k] += q * load(keys + k * dim + d);
    }
    const Quarter score = sums(products);
    for (int k = 0; k < KEYS; ++k) {
        scores[k] = score[k];
        for (int64_t tail = d; tail < dim; ++tail) scores[k] += query[tail] * keys[k * dim + tail];
    }
}

template <int KEYS>
INLINE void score_keys(const DecodeAttention& layer, const Head& head, int64_t token) {
    // After the last keys come the values.
    const int64_t ahead = token * layer.key_dim + FLOATS_AHEAD, end = head.num_tokens * layer.key_dim;
    prefetch(ahead < end ? head.keys + ahead : head.values + ahead - end, KEYS * layer.key_dim);
    for (int64_t g = 0; g < layer.group; ++g) {
        dot<KEYS>(head.query + g * head.query_stride, head.keys + token * layer.key_dim, layer.key_dim,
                  head.scores + g * head.padded + token);
    }
}

INLINE void score_all_keys(const DecodeAttention& layer, const Head& head) {
    constexpr int KEYS = 4;
    int64_t token = 0;
    for (; token + KEYS <= head.num_tokens; token += KEYS) score_keys<KEYS>(layer, head, token);
    for (; token < head.num_tokens; ++token) score_keys<1>(layer, head, token);
}

INLINE float largest_of(const float* scores, int64_t padded, float least) {
    Floats lanes = all(least);
    for (int64_t i = 0; i < padded; i += LANES) {
        const Floats score = load(scores + i);
        lanes = score > lanes ? score : lanes;
    }
    float largest = lanes[0];
    for (int lane = 1; lane < LANES; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
    return largest;
}

// Scores become weights; what is beyond the tokens, up to a whole vector, weighs nothing.
INLINE void softmax(const DecodeAttention& layer, const Head& head, float* scores, const float* sink) {
    std::fill(scores + head.num_tokens, scores + head.padded, 0.0f);
    for (int64_t i = 0; i < head.padded; i += LANES) {
        Floats score = load(scores + i) * layer.scaling;
        if (layer.softcap > 0) score = tanh(score / layer.softcap) * layer.softcap;
        store(scores + i, score);
    }
    std::fill(scores + head.num_tokens, scores + head.padded, -INFINITY);
    const float largest = largest_of(scores, head.padded, sink ? *sink : -INFINITY);
    Floats sums = {};
    for (int64_t i = 0; i < head.padded; i += LANES) {
        const Floats weight = exp_of_negative(load(scores + i) - largest);
        store(scores + i, weight);
        sums += weight;
    }
    const float total = sum(sums) + (sink ? exp_of_negative(all(*sink - largest))[0] : 0.0f);
    for (int64_t i = 0; i < head.padded; i += LANES) store(scores + i, load(scores + i) / total);
}

// Adds the weighted values of tokens [first, last) in VECTORS vectors from dimension d on.
template <int VECTORS>
INLINE void add_vectors(const Head& head, const float* weights, int64_t dim, int64_t d, int64_t first, int64_t last,
                        float* out) {
    Floats sums[VECTORS];
    for (int v = 0; v < VECTORS; ++v) sums[v] = load(out + d + v * LANES);
    const int64_t last_ahead = std::max<int64_t>(0, head.num_tokens - FLOATS_AHEAD / dim);
    for (int64_t token = first; token < last; ++token) {
        const float* value = head.values + token * dim + d;
        prefetch(token < last_ahead ? value + FLOATS_AHEAD : head.next + (token - last_ahead) * dim + d,
                 VECTORS * LANES);
        for (int v = 0; v < VECTORS; ++v) sums[v] += weights[token] * load(value + v * LANES);
    }
    for (int v = 0; v < VECTORS; ++v) store(out + d + v * LANES, sums[v]);
}

INLINE void add_values(const Head& head, const float* weights, int64_t dim, int64_t first, int64_t last, float* out) {
    constexpr int VECTORS = 4;
    int64_t d = 0;
    for (; d + VECTORS * LANES <= dim; d += VECTORS * LANES) {
        add_vectors<VECTORS>(head, weights, dim, d, first, last, out);
    }
    for (; d + LANES <= dim; d += LANES) add_vectors<1>(head, weights, dim, d, first, last, out);
    for (; d < dim; ++d) {
        for (int64_t token = first; token < last; ++token) out[d] += weights[token] * head.values[token * dim + d];
    }
}

CLONES void attend(const DecodeAttention& layer, const Head& head, const float* sinks) {
    score_all_keys(layer, head);
    for (int64_t g = 0; g < layer.group; ++g) {
        softmax(layer, head, head.scores + g * head.padded, sinks ? sinks + g : nullptr);
    }
    std::fill(head.out, head.out + layer.group * layer.value_dim, 0.0f);
    for (int64_t first = 0; first < head.num_tokens; first += TOKENS_IN_CACHE) {
        const int64_t last = std::min(first + TOKENS_IN_CACHE, head.num_tokens);
        for (int64_t g = 0; g < layer.group; ++g) {
            add_values(head, head.scores + g * head.padded, layer.value_dim, first, last,
                       head.out + g * layer.value_dim);
        }
    }
}

struct Task {
    int64_t row, key_head;
};

INLINE const Extent& extent_of(const DecodeAttention& layer, Task task) { return layer.extents[layer.slots[task.row]]; }

INLINE int64_t first_token(const DecodeAttention& layer, Task task) {
    return layer.window ? std::max<int64_t>(0, layer.lengths[task.row] - layer.window) : 0;
}

INLINE const float* first_key(const DecodeAttention& layer, Task task) {
    const Extent& extent = extent_of(layer, task);
    return extent.keys + (task.key_head * extent.capacity + first_token(layer, task)) * layer.key_dim;
}

void append_and_attend(const DecodeAttention& layer, Task task, Task next) {
    const auto [row, key_head] = task;
    const Extent& extent = extent_of(layer, task);
    const int64_t length = layer.lengths[row], H = layer.key_dim, V = layer.value_dim;
    float* keys = extent.keys + key_head * extent.capacity * H;
    float* values = extent.values + key_head * extent.capacity * V;
    const float* new_key = layer.key + row * layer.key_row_stride + key_head * layer.key_head_stride;
    const float* new_value = layer.value + row * layer.value_row_stride + key_head * layer.value_head_stride;
    std::copy(new_key, new_key + H, keys + (length - 1) * H);
    std::copy(new_value, new_value + V, values + (length - 1) * V);

    const int64_t first = first_token(layer, task);
    const int64_t num_tokens = length - first, padded = (num_tokens + LANES - 1) / LANES * LANES;
    const int64_t query_head = key_head * layer.group;
    const std::unique_ptr<float[]> scores(new float[layer.group * padded]);
    const Head head{layer.query + row * layer.query_row_stride + query_head * layer.query_head_stride,
                    keys + first * H,
                    values + first * V,
                    layer.query_head_stride,
                    num_tokens,
                    scores.get(),
                    padded,
                    layer.out + (row * layer.num_key_heads * layer.group + query_head) * V,
                    first_key(layer, next)};
    attend(layer, head, layer.sinks ? layer.sinks + query_head : nullptr);
}

}  // namespace

// Returns 0; or 1, and nothing is done, if a row has no extent or one without room for the new token.
extern "C" int rhapsode_decode_attention(const DecodeAttention* layer) {
    int64_t num_tokens = 0;
    for (int64_t row = 0; row < layer->num_rows; ++row) {
        const int64_t slot = layer->slots[row];
        if (slot >= layer->num_slots || layer->lengths[row] > layer->extents[slot].capacity) return 1;
        num_tokens += layer->lengths[row];
    }
    const int64_t num_floats = num_tokens * layer->num_key_heads * (layer->key_dim + layer->value_dim);
    const int64_t heads = layer->num_key_heads;
    const bool on_all = num_floats >= WORTH_ALL_THREADS;
    for_each_task_knowing_next(layer->num_rows * heads, on_all, [layer, heads](int64_t task, int64_t next) {
        append_and_attend(*layer, {task / heads, task % heads}, {next / heads, next % heads});
    });
    return 0;
}
