// Pieces of align.cu: the expert of a pair, ranks within a tile, prefixes over experts, and what is stored.
#include "wave.cuh"

typedef unsigned short Short;
constexpr int THREADS = 1024;
constexpr int MAX_WAVES = THREADS / WAVE;
constexpr int WAVES_AT_ONCE = 8;  // divides the waves of a block

struct Problem {
  const int *ids, *map, *tokens;
  int *rows, *expert, *totals, *inverse, *counts;
  int num_pairs, per_token, num_experts, num_ids, log_rows, expert_bits, pitch;
};

__device__ inline int pair_limit(const Problem& p) {
  if (p.tokens == nullptr) return p.num_pairs;
  long long limit = static_cast<long long>(max(*p.tokens, 0)) * p.per_token;
  return limit < p.num_pairs ? static_cast<int>(limit) : p.num_pairs;
}

// Local expert of a pair; num_experts where it is dropped.
__device__ inline int local_expert(const Problem& p, int id) {
  if (p.map != nullptr) id = id >= 0 && id < p.num_ids ? p.map[id] : -1;
  return id >= 0 && id < p.num_experts ? id : p.num_experts;
}

__device__ inline int load_expert(const Problem& p, int pair, int limit) {
  return pair < limit ? local_expert(p, p.ids[pair]) : p.num_experts;
}

// Lanes of this wave that hold the same value; all lanes must call it.
__device__ inline Lanes equal_lanes(int value, int bits) {
  Lanes equal = ~static_cast<Lanes>(0);
  for (int bit = 0; bit < bits; ++bit) {
    bool is_set = (value >> bit) & 1;
    Lanes set = BALLOT(is_set);
    equal &= is_set ? set : ~set;
  }
  return equal;
}

__device__ inline int padded(int count, int log_rows) {
  return (count + (1 << log_rows) - 1) >> log_rows << log_rows;
}

// Exclusive prefix of the counts, padded to blocks of 1 << log_rows, into start[]; returns the total. Every thread of
// the block must call it; a barrier is due before start[] is read and before wave_sum[] is used again.
__device__ int scan_counts(const int* count, int* start, int* wave_sum, int num_experts, int log_rows) {
  int each = (num_experts + blockDim.x - 1) / blockDim.x;
  int first = threadIdx.x * each, last = min(first + each, num_experts);
  int mine = 0;
  for (int e = first; e < last; ++e) mine += padded(count[e], log_rows);
  int lane = threadIdx.x % WAVE, wave = threadIdx.x / WAVE, upto = mine;
#pragma unroll
  for (int by = 1; by < WAVE; by *= 2) {
    int other = SHUFFLE_UP(upto, by);
    if (lane >= by) upto += other;
  }
  if (lane == WAVE - 1) wave_sum[wave] = upto;
  __syncthreads();
  int waves_upto = lane < blockDim.x / WAVE ? wave_sum[lane] : 0;
#pragma unroll
  for (int by = 1; by < MAX_WAVES; by *= 2) {
    int other = SHUFFLE_UP(waves_upto, by);
    if (lane >= by) waves_upto += other;
  }
  int total = SHUFFLE(waves_upto, MAX_WAVES - 1), before = SHUFFLE(waves_upto, max(wave - 1, 0));
  int here = (wave > 0 ? before : 0) + upto - mine;
  for (int e = first; e < last; ++e) {
    start[e] = here;
    here += padded(count[e], log_rows);
  }
  return total;
}

// Rank of a pair among those of its expert that this wave has seen; `seen` counts them. All lanes must call it.
__device__ inline int rank_in_wave(const Problem& p, int expert, Short* seen) {
  int lane = threadIdx.x % WAVE;
  Lanes equal = equal_lanes(expert, p.expert_bits);
  int before = seen[expert], rank = COUNT_LANES(equal & ((static_cast<Lanes>(1) << lane) - 1));
  WAVE_BARRIER();
  if (rank == 0) seen[expert] = static_cast<Short>(before + COUNT_LANES(equal));
  WAVE_BARRIER();
  return before + rank;
}

__device__ inline void store_row(const Problem& p, int row, int pair, int expert) {
  p.rows[row] = pair;
  if ((row & ((1 << p.log_rows) - 1)) == 0) p.expert[row >> p.log_rows] = expert;
}

__device__ inline void store_pair(const Problem& p, int pair, int expert, int row) {
  if (pair >= p.num_pairs) return;
  bool is_kept = expert < p.num_experts;
  p.inverse[pair] = is_kept ? row : -1;
  if (is_kept) store_row(p, row, pair, expert);
}

// Waves take the experts first, first + step, ... in turn and fill what lacks to whole blocks.
__device__ void pad_experts(const int* count, const int* start, const Problem& p, int first, int step) {
  int lane = threadIdx.x % WAVE, wave = threadIdx.x / WAVE, block_waves = blockDim.x / WAVE;
  for (int e = first + wave * step; e < p.num_experts; e += block_waves * step)
    for (int r = count[e] + lane; r < padded(count[e], p.log_rows); r += WAVE) p.rows[start[e] + r] = p.num_pairs;
}

// Turns what each wave holds of an expert into what the waves before it hold.
__device__ void sum_waves(const Problem& p, Short* table, int* tile_count) {
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) {
    int before = 0;
    for (int v = 0; v < blockDim.x / WAVE; v += WAVES_AT_ONCE) {
      int here[WAVES_AT_ONCE];  // read before anything is written: the compiler cannot know that they differ
#pragma unroll
      for (int i = 0; i < WAVES_AT_ONCE; ++i) here[i] = table[(v + i) * p.pitch + e];
#pragma unroll
      for (int i = 0; i < WAVES_AT_ONCE; ++i) {
        table[(v + i) * p.pitch + e] = static_cast<Short>(before);
        before += here[i];
      }
    }
    tile_count[e] = before;
  }
}

// One block stores them; `kept` is a word of shared memory. Every thread of the block must call it.
__device__ void store_totals(const int* count, int total, int* kept, const Problem& p) {
  if (threadIdx.x == 0) *kept = 0;
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) {
    p.counts[e] = count[e];
    atomicAdd(kept, count[e]);
  }
  __syncthreads();
  if (threadIdx.x < 2) p.totals[threadIdx.x] = threadIdx.x == 0 ? total : *kept;
}
