// The gate for CUDA and HIP from one text. Same choice, bit for bit, as gate.py: best first, ties to the lower id.
//
// Legend: T tokens, E experts. A wave takes one token; a lane holds EACH experts that follow each other, sorted. A
// choice is one key: the score in an order-preserving form whose lowest bits are replaced by the complement of the id,
// so that one maximum over the wave's heads finds score and expert. Where two of the best keys agree in all that is
// left of the score, the wave decides again with whole scores. Scores of 16 bits lose nothing (NARROW).

#include "wave.cuh"

constexpr int WAVES = 4;  // of a block; they do not know of each other

struct Problem {
  const void* logits;
  const float* bias;
  float* weights;
  int* ids;
  int num_tokens, num_experts, top_k, num_shared, num_groups, top_groups, group_shift, splits, id_mask;
  float scale;
  bool is_softmax, is_renormalized, is_rounded, is_top2;
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(unsigned short bfloat) { return __int_as_float(static_cast<int>(bfloat) << 16); }

// Integers in the order of floats; NaN above all, -0 as +0, and nothing real is as low as ABSENT.
constexpr int ABSENT = -0x7fffffff - 1;

__device__ inline int ordered(float value) {
  int bits = __float_as_int(CANONICAL(value));
  return bits ^ (bits >> 31 & 0x7fffffff);
}

__device__ inline float unordered(int key) { return __int_as_float(key ^ (key >> 31 & 0x7fffffff)); }

__device__ inline int wave_max(int value) {
#if defined(__HIP_PLATFORM_AMD__)
#pragma unroll
  for (int by = WAVE / 2; by > 0; by /= 2) value = max(value, SHUFFLE_XOR(value, by));
  return value;
#else
  return __reduce_max_sync(0xffffffffu, value);
#endif
}

__device__ inline float wave_sum(float value) {
#pragma unroll
  for (int by = WAVE / 2; by > 0; by /= 2) value += SHUFFLE_XOR(value, by);
  return value;
}

__device__ inline float rounded_to_bfloat(float value) {
  int bits = __float_as_int(value);
  return value != value ? value : __int_as_float((bits + 0x7fff + (bits >> 16 & 1)) & ~0xffff);
}

template <class T, int EACH>
struct alignas(EACH * sizeof(T) < 16 ? EACH * sizeof(T) : 16) Pack {
  T value[EACH];
};

// The logits of experts first, first + 1, ...: the sum of the parts, which are T * E apart.
template <class T, int EACH>
__device__ inline void load_logits(const Problem& p, int token, int first, float (&logit)[EACH]) {
  const T* row = static_cast<const T*>(p.logits) + static_cast<long long>(token) * p.num_experts + first;
  Pack<T, EACH> pack = *reinterpret_cast<const Pack<T, EACH>*>(row);
#pragma unroll
  for (int i = 0; i < EACH; ++i) logit[i] = to_float(pack.value[i]);
  for (int part = 1; part < p.splits; ++part) {
    row += static_cast<long long>(p.num_tokens) * p.num_experts;
    pack = *reinterpret_cast<const Pack<T, EACH>*>(row);
#pragma unroll
    for (int i = 0; i < EACH; ++i) logit[i] += to_float(pack.value[i]);
  }
  if (p.is_rounded) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) logit[i] = rounded_to_bfloat(logit[i]);
  }
}

// Batcher's odd-even merge sort, largest first.
template <int N>
__device__ inline void sort(int (&key)[N]) {
#pragma unroll
  for (int size = 1; size < N; size *= 2)
#pragma unroll
    for (int gap = size; gap >= 1; gap /= 2)
#pragma unroll
      for (int i = 0; i < N; ++i) {
        bool is_pair = i >= gap % size && i + gap < N && (i - gap % size) % (2 * gap) < gap &&
                       i / (2 * size) == (i + gap) / (2 * size);
        if (is_pair) {
          int upper = max(key[i], key[i + gap]);
          key[i + gap] = min(key[i], key[i + gap]);
          key[i] = upper;
        }
      }
}

// True for lanes whose group is among the best ones; 1 << group_shift lanes share a group.
template <int EACH>
__device__ inline bool is_in_best_groups(const Problem& p, const int (&key)[EACH], int lane) {
  int first = ABSENT, second = ABSENT, mine = lane >> p.group_shift;
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    second = max(second, min(first, key[i]));
    first = max(first, key[i]);
  }
  for (int by = 1; by < 1 << p.group_shift; by *= 2) {
    int other = SHUFFLE_XOR(first, by), next = SHUFFLE_XOR(second, by);
    second = max(max(second, next), min(first, other));
    first = max(first, other);
  }
  int rating = p.is_top2 ? ordered(unordered(first) + unordered(second)) : first, rank = 0;
#pragma unroll 8
  for (int group = 0; group < p.num_groups; ++group) {
    int other = SHUFFLE(rating, group << p.group_shift);
    rank += other > rating || (other == rating && group < mine);
  }
  return rank < p.top_groups && mine < p.num_groups;
}

// Lane k < top_k gets the key whose lowest bits are the complement of the k-th id; keys are used up. TOP_K is 0 or
// top_k. `is_unsure` becomes true where two keys, the first of the rest among them, differ in their ids only.
template <int EACH, bool NARROW, int TOP_K>
__device__ inline int take_best(const Problem& p, int (&key)[EACH], int lane, bool& is_unsure) {
  int mine = 0, last = ABSENT, passes = (TOP_K ? TOP_K : p.top_k) + !NARROW;
  sort<EACH>(key);
#pragma unroll
  for (int k = 0; k < passes; ++k) {
    int best = wave_max(key[0]);
    if (!NARROW) is_unsure |= ((best ^ last) & ~p.id_mask) == 0;
    last = best;
    if (lane == k) mine = best;
    bool is_taken = key[0] == best;
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (TOP_K == 0 || i < passes - 1 - k) key[i] = !is_taken ? key[i] : i + 1 < EACH ? key[i + 1] : ABSENT;
  }
  return mine;
}

// The same with whole scores; lanes from 0 on hold ascending ids.
template <int EACH>
__device__ int take_best_exactly(const Problem& p, int (&score)[EACH], int lane) {
  int mine = 0, rest_of_first = p.id_mask - lane * EACH;
  for (int k = 0; k < p.top_k; ++k) {
    int head = ABSENT, rest = -1;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      if (score[i] > head) {
        head = score[i];
        rest = rest_of_first - i;
      }
    }
    int best = wave_max(head), best_rest = wave_max(head == best ? rest : -1);
    if (lane == k) mine = best_rest;
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (rest_of_first - i == best_rest) score[i] = ABSENT;
  }
  return mine;
}

// `peak` and `total` (one over the sum) are those of the softmax, unless its weights are renormalised anyway.
template <class T, bool NARROW>
__device__ inline void store_choice(
    const Problem& p, int token, int lane, int key, bool is_simple, float peak, float total) {
  int id = p.id_mask - (key & p.id_mask), width = p.top_k + p.num_shared, where = token * width + lane;
  bool is_routed = lane < p.top_k;
  float logit[1] = {0.0f};
  if (NARROW) logit[0] = unordered((key & ~0xffff) | (key >> 31 & 0xffff));
  else if (is_routed) load_logits<T, 1>(p, token, id, logit);
  if (is_simple) peak = SHUFFLE(logit[0], 0);
  float weight = p.is_softmax ? __expf(logit[0] - peak) * total : __fdividef(1.0f, 1.0f + __expf(-logit[0]));
  if (!is_routed) weight = 0.0f;
  if (p.is_renormalized) {
    float sum = weight;
    for (int by = 1; by < p.top_k; by *= 2) sum += SHUFFLE_XOR(sum, by);
    weight = __fdividef(weight, sum + 1e-20f);
  }
  if (lane >= width) return;
  p.weights[where] = is_routed ? weight * p.scale : 1.0f;
  p.ids[where] = is_routed ? id : p.num_experts + lane - p.top_k;
}

// Softmax of the logits: its peak, and one over its sum.
template <int EACH>
__device__ inline void softmax_of(const float (&value)[EACH], bool is_real, float& peak, float& total) {
  int top = ABSENT;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < EACH; ++i) top = max(top, is_real ? ordered(value[i]) : ABSENT);
  peak = unordered(wave_max(top));
#pragma unroll
  for (int i = 0; i < EACH; ++i) sum += is_real ? __expf(value[i] - peak) : 0.0f;
  total = __fdividef(1.0f, wave_sum(sum));
}

template <class T, int EACH, bool NARROW>
__global__ void __launch_bounds__(WAVES* WAVE) gate_kernel(Problem p) {
  int token = blockIdx.x * WAVES + threadIdx.x / WAVE, lane = threadIdx.x % WAVE, first = lane * EACH;
  if (token >= p.num_tokens) return;
  float value[EACH], peak = 0.0f, total = 1.0f;
  bool is_real = first < p.num_experts, has_plain_choice = NARROW || (p.bias == nullptr && p.num_groups == 1);
  bool is_simple = p.is_softmax && p.is_renormalized && has_plain_choice;
#pragma unroll
  for (int i = 0; i < EACH; ++i) value[i] = 0.0f;
  if (is_real) load_logits<T, EACH>(p, token, first, value);
  if (p.is_softmax && !is_simple) softmax_of<EACH>(value, is_real, peak, total);
  if (!NARROW && !p.is_softmax) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) value[i] = __fdividef(1.0f, 1.0f + __expf(-value[i]));
  } else if (!has_plain_choice) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) value[i] = __expf(value[i] - peak) * total;
  }
  if (!NARROW && p.bias != nullptr && is_real) {
    Pack<float, EACH> bias = *reinterpret_cast<const Pack<float, EACH>*>(p.bias + first);
#pragma unroll
    for (int i = 0; i < EACH; ++i) value[i] += bias.value[i];
  }
  int score[EACH], key[EACH], rest_of_first = p.id_mask - first;
  bool is_open = is_real, is_unsure = false;
#pragma unroll
  for (int i = 0; i < EACH; ++i) score[i] = is_real ? ordered(value[i]) : ABSENT;
  if (!NARROW && p.num_groups > 1) is_open &= is_in_best_groups<EACH>(p, score, lane);
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    score[i] = is_open ? score[i] : ABSENT;
    key[i] = is_open ? (score[i] & ~p.id_mask) | (rest_of_first - i) : ABSENT;
  }
  int mine = p.top_k == 8 ? take_best<EACH, NARROW, 8>(p, key, lane, is_unsure)
                          : take_best<EACH, NARROW, 0>(p, key, lane, is_unsure);
  if (!NARROW && is_unsure) mine = take_best_exactly<EACH>(p, score, lane);
  store_choice<T, NARROW>(p, token, lane, mine, is_simple, peak, total);
}

template <class T, bool NARROW>
static int launch(const Problem& p, int each, STREAM stream) {
  int blocks = (p.num_tokens + WAVES - 1) / WAVES;
  if (each == 1) gate_kernel<T, 1, NARROW><<<blocks, WAVES * WAVE, 0, stream>>>(p);
  else if (each == 2) gate_kernel<T, 2, NARROW><<<blocks, WAVES * WAVE, 0, stream>>>(p);
  else if (each == 4) gate_kernel<T, 4, NARROW><<<blocks, WAVES * WAVE, 0, stream>>>(p);
  else gate_kernel<T, 8, NARROW><<<blocks, WAVES * WAVE, 0, stream>>>(p);
  return LAST_ERROR();
}

struct Layout {
  int each, group_shift;  // experts of a lane, or 0 where this text does not serve the shape; see is_in_best_groups
};

static Layout layout_of(int num_experts, int num_groups) {
  Layout layout = {1, 0};
  while (layout.each * WAVE < num_experts) layout.each *= 2;
  bool is_whole = layout.each <= 8 && num_experts % layout.each == 0;
  if (num_groups > 1) {
    while ((layout.each << layout.group_shift) * num_groups < num_experts) ++layout.group_shift;
    is_whole = is_whole && (layout.each << layout.group_shift) * num_groups == num_experts;
  }
  if (!is_whole) layout.each = 0;
  return layout;
}

// Whether `proa_gate` takes these sizes.
extern "C" int proa_gate_serves(int num_experts, int num_groups) { return layout_of(num_experts, num_groups).each > 0; }

// `is_wide`: logits are float32, else bfloat16. Returns 0, -1 for a shape that is not served, or the runtime's error.
extern "C" int proa_gate(
    const void* logits, const float* bias, float* weights, int* ids, int num_tokens, int num_experts, int top_k,
    int num_shared, int num_groups, int top_groups, int splits, int is_wide, int is_softmax, int is_renormalized,
    int is_rounded, int is_top2, float scale, STREAM stream) {
  Layout layout = layout_of(num_experts, num_groups);
  int bits = 1, each = layout.each;
  if (each == 0 || top_k + num_shared > WAVE) return -1;
  while ((1 << bits) < num_experts) ++bits;
  Problem p = {logits, bias, weights, ids, num_tokens, num_experts, top_k, num_shared, num_groups, top_groups,
               layout.group_shift, splits, (1 << bits) - 1, scale, is_softmax != 0, is_renormalized != 0,
               is_rounded != 0, is_top2 != 0};
  bool is_narrow = is_softmax && bias == nullptr && num_groups == 1 && (!is_wide || is_rounded);
  if (is_wide) return is_narrow ? launch<float, true>(p, each, stream) : launch<float, false>(p, each, stream);
  return is_narrow ? launch<unsigned short, true>(p, each, stream) : launch<unsigned short, false>(p, each, stream);
}
