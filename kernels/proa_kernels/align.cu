// align & sort for CUDA and HIP from one text. Same outputs, bit for bit, as moe_align.py: pairs keep their order.
//
// Legend: N pairs, E experts, M = 1 << log_rows rows of a block. A tile is what one block ranks at once. The rank of a
// pair inside its tile is its rank among equal experts in its wave, plus what the wave held of that expert before, plus
// what earlier waves hold; no atomic decides an order. Few pairs take one launch, in which every block counts all of
// them. Else `count_kernel` writes a [G, E] matrix and every block of `place_kernel` derives its own offsets from it,
// so the launch boundary is the only synchronisation between blocks. Large tiles are laid out by expert in shared
// memory first, so that neighbouring threads write neighbouring rows.

#include "align_ranks.cuh"

constexpr int DIRECT_PAIRS = 16384;  // every block counts them all
constexpr int MIN_DIRECT_BLOCKS = 16;  // even a single pair leaves much padding to write
constexpr int MAX_DIRECT_BLOCKS = 128;
constexpr int MAX_RANKED_BLOCKS = 128;  // each of one tile; each reads the counts of all
constexpr int EACH = 4;  // pairs of a thread in a tile; half of them in small tiles
constexpr int LOCAL_BITS = 12;  // of a pair's number in such a tile

extern __shared__ int shared[];

// All pairs in one launch: each block counts them all and places one tile.
__global__ void __launch_bounds__(THREADS) direct_kernel(Problem p, int tile) {
  int* both = shared;  // pairs of an expert in all, and those before this tile in the upper half
  int* count = both + p.num_experts + 1;
  int* start = count + p.num_experts;
  int* wave_sum = start + p.num_experts;
  Short* table = reinterpret_cast<Short*>(wave_sum + MAX_WAVES + 1);
  int limit = pair_limit(p), wave = threadIdx.x / WAVE, first = blockIdx.x * tile, pair = first + threadIdx.x;
  bool is_mine = threadIdx.x < tile;
  int expert = is_mine ? load_expert(p, pair, limit) : 0;
  const int4* wide = reinterpret_cast<const int4*>(p.ids);
  int quad = threadIdx.x;
  int4 ids = quad < limit / 4 ? wide[quad] : int4{};
  for (int i = threadIdx.x; i <= p.num_experts; i += blockDim.x) both[i] = 0;
  for (int i = threadIdx.x; i < tile / WAVE * p.pitch; i += blockDim.x) table[i] = 0;
  __syncthreads();
  while (quad < limit / 4) {
    int one = 4 * quad < first ? 0x10001 : 1;  // a tile starts at a multiple of four
    atomicAdd(&both[local_expert(p, ids.x)], one);
    atomicAdd(&both[local_expert(p, ids.y)], one);
    atomicAdd(&both[local_expert(p, ids.z)], one);
    atomicAdd(&both[local_expert(p, ids.w)], one);
    quad += blockDim.x;
    if (quad < limit / 4) ids = wide[quad];
  }
  int rest = limit / 4 * 4 + threadIdx.x;
  if (rest < limit) atomicAdd(&both[load_expert(p, rest, limit)], rest < first ? 0x10001 : 1);
  int rank = is_mine ? rank_in_wave(p, expert, table + wave * p.pitch) : 0;
  __syncthreads();
  int each = (p.num_experts + blockDim.x - 1) / blockDim.x;  // as in scan_counts, so that no barrier is due
  for (int e = threadIdx.x * each; e < min((static_cast<int>(threadIdx.x) + 1) * each, p.num_experts); ++e)
    count[e] = both[e] & 0xffff;
  int total = scan_counts(count, start, wave_sum, p.num_experts, p.log_rows);
  __syncthreads();
  if (is_mine) {
    int row = 0;
    if (expert < p.num_experts) {
      row = start[expert] + (static_cast<unsigned>(both[expert]) >> 16) + rank;
      for (int w = 0; w < wave; ++w) row += table[w * p.pitch + expert];
    }
    store_pair(p, pair, expert, row);
  }
  pad_experts(count, start, p, blockIdx.x, gridDim.x);
  if (blockIdx.x == 0) store_totals(count, total, wave_sum + MAX_WAVES, p);
}

__global__ void __launch_bounds__(THREADS) count_kernel(Problem p, int* matrix, int span) {
  for (int e = threadIdx.x; e <= p.num_experts; e += blockDim.x) shared[e] = 0;
  __syncthreads();
  long long begin = static_cast<long long>(blockIdx.x) * span;
  int limit = pair_limit(p);
  int end = begin + span < limit ? static_cast<int>(begin) + span : limit;
  // The span is a multiple of four, so 16-byte loads stay aligned; the last few pairs are taken one by one.
  int quads = begin < end ? (end - static_cast<int>(begin)) / 4 : 0;
  const int4* wide = reinterpret_cast<const int4*>(p.ids + begin);
#pragma unroll 4
  for (int i = threadIdx.x; i < quads; i += blockDim.x) {
    int4 ids = wide[i];
    atomicAdd(&shared[local_expert(p, ids.x)], 1);
    atomicAdd(&shared[local_expert(p, ids.y)], 1);
    atomicAdd(&shared[local_expert(p, ids.z)], 1);
    atomicAdd(&shared[local_expert(p, ids.w)], 1);
  }
  int rest = static_cast<int>(begin) + 4 * quads + threadIdx.x;
  if (begin < end && rest < end) atomicAdd(&shared[load_expert(p, rest, limit)], 1);
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x)
    matrix[blockIdx.x * p.num_experts + e] = shared[e];
}

// Pairs of each expert in all rows of the matrix and in those before this block's.
template <class Count>
__device__ void sum_matrix(const Problem& p, const Count* matrix, int* count, int* base) {
  int parts = max(static_cast<int>(blockDim.x) / p.num_experts, 1);
  for (int i = threadIdx.x; i < parts * p.num_experts; i += blockDim.x) {
    int e = i % p.num_experts, all = 0, before = 0;
#pragma unroll ROWS_IN_FLIGHT
    for (int row = i / p.num_experts; row < gridDim.x; row += parts) {
      int here = matrix[row * p.num_experts + e];
      all += here;
      before += row < blockIdx.x ? here : 0;
    }
    atomicAdd(&count[e], all);
    atomicAdd(&base[e], before);
  }
}

// Each wave takes TILE_EACH * WAVE pairs that follow each other.
template <int TILE_EACH>
__device__ inline void load_tile(const Problem& p, long long first, long long end, int limit, int (&expert)[TILE_EACH]) {
  long long pair = first + threadIdx.x / WAVE * (TILE_EACH * WAVE) + threadIdx.x % WAVE;
#pragma unroll
  for (int k = 0; k < TILE_EACH; ++k)
    expert[k] = pair + k * WAVE < end ? load_expert(p, static_cast<int>(pair) + k * WAVE, limit) : p.num_experts;
}

// Where every pair stands among those of its expert in this block, and how many of each expert the block holds.
template <int TILE_EACH>
__global__ void __launch_bounds__(THREADS) rank_kernel(Problem p, Short* matrix, Short* ranks) {
  int* tile_count = shared;
  Short* table = reinterpret_cast<Short*>(tile_count + p.num_experts);
  int wave = threadIdx.x / WAVE, tile = TILE_EACH * blockDim.x, expert[TILE_EACH], rank[TILE_EACH];
  int first = blockIdx.x * tile, pair = first + wave * (TILE_EACH * WAVE) + threadIdx.x % WAVE;
  load_tile<TILE_EACH>(p, first, min(first + tile, p.num_pairs), pair_limit(p), expert);
  for (int i = threadIdx.x; i < blockDim.x / WAVE * p.pitch; i += blockDim.x) table[i] = 0;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < TILE_EACH; ++k) rank[k] = rank_in_wave(p, expert[k], table + wave * p.pitch);
  __syncthreads();
  sum_waves(p, table, tile_count);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < TILE_EACH; ++k)
    if (expert[k] < p.num_experts)
      ranks[pair + k * WAVE] = static_cast<Short>(table[wave * p.pitch + expert[k]] + rank[k]);
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x)
    matrix[blockIdx.x * p.num_experts + e] = static_cast<Short>(tile_count[e]);
}

// Start of each expert's pairs of this block from the counts of all blocks; the first block stores the totals, and all
// share the padding. Every thread of the block must call it.
template <class Count>
__device__ void start_block(const Problem& p, const Count* matrix, int* count, int* start, int* base, int* wave_sum) {
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) count[e] = base[e] = 0;
  __syncthreads();
  sum_matrix<Count>(p, matrix, count, base);
  __syncthreads();
  int total = scan_counts(count, start, wave_sum, p.num_experts, p.log_rows);
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) base[e] += start[e];
  if (blockIdx.x == 0) store_totals(count, total, wave_sum + MAX_WAVES, p);
  pad_experts(count, start, p, blockIdx.x, gridDim.x);
  __syncthreads();
}

template <int TILE_EACH>
__global__ void __launch_bounds__(THREADS) scatter_kernel(Problem p, const Short* matrix, const Short* ranks) {
  int* count = shared;
  int* start = count + p.num_experts;
  int* base = start + p.num_experts;
  int tile = TILE_EACH * blockDim.x, first = blockIdx.x * tile, expert[TILE_EACH], rank[TILE_EACH];
  int pair = first + threadIdx.x / WAVE * (TILE_EACH * WAVE) + threadIdx.x % WAVE;
  load_tile<TILE_EACH>(p, first, min(first + tile, p.num_pairs), pair_limit(p), expert);
#pragma unroll
  for (int k = 0; k < TILE_EACH; ++k) rank[k] = expert[k] < p.num_experts ? ranks[pair + k * WAVE] : 0;
  start_block<Short>(p, matrix, count, start, base, base + p.num_experts);
#pragma unroll
  for (int k = 0; k < TILE_EACH; ++k)
    store_pair(p, pair + k * WAVE, expert[k], expert[k] < p.num_experts ? base[expert[k]] + rank[k] : 0);
}

// Tiles of a block one after the other.
__global__ void __launch_bounds__(THREADS, 2) place_kernel(Problem p, const int* matrix, int span) {
  int* count = shared;
  int* start = count + p.num_experts;
  int* base = start + p.num_experts;
  int* tile_count = base + p.num_experts;
  int* tile_start = tile_count + p.num_experts;
  int* wave_sum = tile_start + p.num_experts;
  unsigned* staged = reinterpret_cast<unsigned*>(wave_sum + MAX_WAVES + 1);
  Short* table = reinterpret_cast<Short*>(staged + EACH * blockDim.x);
  int limit = pair_limit(p), lane = threadIdx.x % WAVE, wave = threadIdx.x / WAVE, tile = EACH * blockDim.x;
  long long first = static_cast<long long>(blockIdx.x) * span;
  long long end = min(first + span, static_cast<long long>(p.num_pairs));
  int expert[EACH], rank[EACH];
  load_tile<EACH>(p, first, end, limit, expert);
  start_block<int>(p, matrix, count, start, base, wave_sum);
  for (; first < end; first += tile) {
    for (int i = threadIdx.x; i < blockDim.x / WAVE * p.pitch; i += blockDim.x) table[i] = 0;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < EACH; ++k) rank[k] = rank_in_wave(p, expert[k], table + wave * p.pitch);
    __syncthreads();
    sum_waves(p, table, tile_count);
    __syncthreads();
    int num_kept = scan_counts(tile_count, tile_start, wave_sum, p.num_experts, 0);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
      int local = wave * (EACH * WAVE) + k * WAVE + lane;
      bool is_kept = expert[k] < p.num_experts;
      int place = is_kept ? table[wave * p.pitch + expert[k]] + rank[k] : 0;
      if (first + local < end) p.inverse[first + local] = is_kept ? base[expert[k]] + place : -1;
      if (is_kept) staged[tile_start[expert[k]] + place] = static_cast<unsigned>(expert[k]) << LOCAL_BITS | local;
    }
    load_tile<EACH>(p, first + tile, end, limit, expert);
    __syncthreads();
    for (int i = threadIdx.x; i < num_kept; i += blockDim.x) {
      int e = staged[i] >> LOCAL_BITS, pair = static_cast<int>(first) + (staged[i] & ((1 << LOCAL_BITS) - 1));
      store_row(p, base[e] + i - tile_start[e], pair, e);
    }
    __syncthreads();
    for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) base[e] += tile_count[e];
  }
}

static int rounded(int value, int unit) { return (value + unit - 1) / unit * unit; }

enum Way { DIRECT, RANKED, PLACED };

struct Plan {
  Way way;
  int blocks, threads, span;  // `span`: pairs of a block
};

static Plan plan_for(int num_pairs, int num_experts, int max_blocks) {
  Plan plan = {DIRECT, 0, num_experts <= 256 ? THREADS : THREADS / 2, 0};  // the table of waves and experts has to fit
  if (num_pairs <= DIRECT_PAIRS) {
    plan.span = max(rounded((num_pairs + MAX_DIRECT_BLOCKS - 1) / MAX_DIRECT_BLOCKS, WAVE), WAVE);
    plan.blocks = max((num_pairs + plan.span - 1) / plan.span, MIN_DIRECT_BLOCKS);
    plan.threads = num_pairs <= 1024 ? 256 : num_pairs >= 4096 ? THREADS : rounded(num_pairs / 4, WAVE);
    return plan;
  }
  for (int each = EACH / 2; each <= EACH; each *= 2) {
    plan.way = RANKED;
    plan.span = each * plan.threads;
    plan.blocks = (num_pairs + plan.span - 1) / plan.span;
    if (plan.blocks <= min(max_blocks, MAX_RANKED_BLOCKS)) return plan;
  }
  plan.way = PLACED;
  plan.blocks = max_blocks;
  plan.span = rounded((num_pairs + plan.blocks - 1) / plan.blocks, 4);
  return plan;
}

template <int TILE_EACH>
static void launch_ranked(const Problem& p, const Plan& plan, Short* matrix, STREAM stream) {
  Short* ranks = matrix + plan.blocks * p.num_experts;
  size_t bytes = p.num_experts * sizeof(int) + plan.threads / WAVE * p.pitch * 2;
  size_t head = (3 * p.num_experts + MAX_WAVES + 1) * sizeof(int);
  rank_kernel<TILE_EACH><<<plan.blocks, plan.threads, bytes, stream>>>(p, matrix, ranks);
  scatter_kernel<TILE_EACH><<<plan.blocks, plan.threads, head, stream>>>(p, matrix, ranks);
}

static void launch_placed(const Problem& p, const Plan& plan, int* matrix, STREAM stream) {
  size_t head = (5 * p.num_experts + MAX_WAVES + 1) * sizeof(int);
  size_t bytes = head + EACH * plan.threads * sizeof(int) + plan.threads / WAVE * p.pitch * 2;
  count_kernel<<<plan.blocks, plan.threads, (p.num_experts + 1) * sizeof(int), stream>>>(p, matrix, plan.span);
  place_kernel<<<plan.blocks, plan.threads, bytes, stream>>>(p, matrix, plan.span);
}

// Bytes of device memory that `proa_align` needs for these sizes.
extern "C" int proa_align_workspace(int num_pairs, int num_experts, int max_blocks) {
  Plan plan = plan_for(num_pairs, num_experts, max_blocks);
  int counts = plan.blocks * num_experts;
  return plan.way == DIRECT ? 0 : plan.way == RANKED ? (counts + num_pairs) * 2 : counts * 4;
}

// Returns 0, -1 for more experts than the tables hold, or the runtime's error. Pointers: see struct Problem.
extern "C" int proa_align(
    const int* ids, const int* map, const int* tokens, int num_pairs, int per_token, int num_experts, int num_ids,
    int log_rows, int max_blocks, void* workspace, int* rows, int* expert, int* totals, int* inverse, int* counts,
    STREAM stream) {
  if (num_experts > 512) return -1;
  int bits = 1;
  while ((1 << bits) <= num_experts) ++bits;
  Plan plan = plan_for(num_pairs, num_experts, max_blocks);
  // The table has a place for dropped pairs.
  Problem p = {ids, map, tokens, rows, expert, totals, inverse, counts, num_pairs, per_token, num_experts, num_ids,
               log_rows, bits, rounded(num_experts + 1, 2)};
  if (plan.way == DIRECT) {
    size_t bytes = (3 * num_experts + 2 + MAX_WAVES) * sizeof(int) + plan.span / WAVE * p.pitch * 2;
    direct_kernel<<<plan.blocks, plan.threads, bytes, stream>>>(p, plan.span);
  } else if (plan.way == PLACED) {
    launch_placed(p, plan, static_cast<int*>(workspace), stream);
  } else if (plan.span == EACH * plan.threads) {
    launch_ranked<EACH>(p, plan, static_cast<Short*>(workspace), stream);
  } else {
    launch_ranked<EACH / 2>(p, plan, static_cast<Short*>(workspace), stream);
  }
  return LAST_ERROR();
}
