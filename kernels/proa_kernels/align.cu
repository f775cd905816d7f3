// align & sort for CUDA and HIP from one text. Same outputs, bit for bit, as moe_align.py: pairs keep their order.
//
// Legend: N pairs, E experts, M = 1 << log_rows rows of a block. A tile is what one block ranks at once. The rank of a
// pair inside its tile is its rank among equal experts in its wave, plus what the wave held of that expert before, plus
// what earlier waves hold; no atomic decides an order. Few pairs take one launch, in which every block counts all of
// them. Else `count_kernel` writes a [G, E] matrix and every block of `place_kernel` derives its own offsets from it,
// so the launch boundary is the only synchronisation between blocks. Large tiles are laid out by expert in shared
// memory first, so that neighbouring threads write neighbouring rows.

#if defined(__HIP_PLATFORM_AMD__)
#include <hip/hip_runtime.h>
#define STREAM hipStream_t
#define LAST_ERROR() static_cast<int>(hipGetLastError())
#define SHUFFLE_UP(value, by) __shfl_up(value, by)
#define BALLOT(is_set) __ballot(is_set)
#define COUNT_LANES(lanes) __popcll(lanes)
#define WAVE_BARRIER() \
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront"); \
  __builtin_amdgcn_wave_barrier(); \
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront")
typedef unsigned long long Lanes;
constexpr int WAVE = 64;
constexpr int ROWS_IN_FLIGHT = 4;  // eight spill scalar registers
#else
#include <cuda_runtime.h>
#define STREAM cudaStream_t
#define LAST_ERROR() static_cast<int>(cudaGetLastError())
#define SHUFFLE_UP(value, by) __shfl_up_sync(0xffffffffu, value, by)
#define BALLOT(is_set) __ballot_sync(0xffffffffu, is_set)
#define COUNT_LANES(lanes) __popc(lanes)
#define WAVE_BARRIER() __syncwarp()
typedef unsigned Lanes;
constexpr int WAVE = 32;
constexpr int ROWS_IN_FLIGHT = 16;
#endif

typedef unsigned short Short;
constexpr int THREADS = 1024;
constexpr int MAX_WAVES = THREADS / WAVE;
constexpr int DIRECT_PAIRS = 8192;      // every block counts them all
constexpr int MIN_DIRECT_BLOCKS = 16;   // even a single pair leaves much padding to write
constexpr int MAX_DIRECT_BLOCKS = 128;
constexpr int SMALL_SPAN = 2048;        // pairs of one block of the second launch, until there are too many blocks
constexpr int MAX_SHORT_COUNT = 65535;  // of the matrix, which is read by every block
constexpr int EACH_STAGED = 4;          // pairs of a thread in a tile that is laid out in shared memory
constexpr int LOCAL_BITS = 12;          // of a pair's number in such a tile

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
  int before = 0, total = 0;
  for (int w = 0; w < blockDim.x / WAVE; ++w) {
    if (w < wave) before += wave_sum[w];
    total += wave_sum[w];
  }
  int here = before + upto - mine;
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
  for (int i = threadIdx.x; i <= p.num_experts; i += blockDim.x) both[i] = 0;
  for (int i = threadIdx.x; i < tile / WAVE * p.pitch; i += blockDim.x) table[i] = 0;
  __syncthreads();
  const int4* wide = reinterpret_cast<const int4*>(p.ids);
#pragma unroll 2
  for (int i = threadIdx.x; i < limit / 4; i += blockDim.x) {
    int4 ids = wide[i];
    int one = 4 * i < first ? 0x10001 : 1;  // a tile starts at a multiple of four
    atomicAdd(&both[local_expert(p, ids.x)], one);
    atomicAdd(&both[local_expert(p, ids.y)], one);
    atomicAdd(&both[local_expert(p, ids.z)], one);
    atomicAdd(&both[local_expert(p, ids.w)], one);
  }
  int rest = limit / 4 * 4 + threadIdx.x;
  if (rest < limit) atomicAdd(&both[load_expert(p, rest, limit)], rest < first ? 0x10001 : 1);
  int rank = is_mine ? rank_in_wave(p, expert, table + wave * p.pitch) : 0;
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) count[e] = both[e] & 0xffff;
  __syncthreads();
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

template <class Count>
__global__ void __launch_bounds__(THREADS) count_kernel(Problem p, Count* matrix, int span) {
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
    matrix[blockIdx.x * p.num_experts + e] = static_cast<Count>(shared[e]);
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

// Turns what each wave holds of an expert into what the waves before it hold.
__device__ void sum_waves(const Problem& p, Short* table, int* tile_count) {
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) {
    int before = 0;
#pragma unroll 8
    for (int v = 0; v < blockDim.x / WAVE; ++v) {
      int here = table[v * p.pitch + e];
      table[v * p.pitch + e] = static_cast<Short>(before);
      before += here;
    }
    tile_count[e] = before;
  }
}

// Each wave takes EACH * WAVE pairs that follow each other.
template <int EACH>
__device__ inline void load_tile(const Problem& p, long long first, long long end, int limit, int (&expert)[EACH]) {
  long long pair = first + threadIdx.x / WAVE * (EACH * WAVE) + threadIdx.x % WAVE;
#pragma unroll
  for (int k = 0; k < EACH; ++k)
    expert[k] = pair + k * WAVE < end ? load_expert(p, static_cast<int>(pair) + k * WAVE, limit) : p.num_experts;
}

template <class Count, int EACH>
__global__ void __launch_bounds__(THREADS) place_kernel(Problem p, const Count* matrix, int span) {
  constexpr bool STAGED = EACH == EACH_STAGED;
  int* count = shared;
  int* start = count + p.num_experts;
  int* base = start + p.num_experts;
  int* tile_count = base + p.num_experts;
  int* tile_start = tile_count + p.num_experts;
  int* wave_sum = tile_start + p.num_experts;
  unsigned* staged = reinterpret_cast<unsigned*>(wave_sum + MAX_WAVES + 1);
  Short* table = reinterpret_cast<Short*>(staged + (STAGED ? EACH * blockDim.x : 0));
  int limit = pair_limit(p), lane = threadIdx.x % WAVE, wave = threadIdx.x / WAVE, tile = EACH * blockDim.x;
  long long first = static_cast<long long>(blockIdx.x) * span;
  long long end = min(first + span, static_cast<long long>(p.num_pairs));
  int expert[EACH], rank[EACH];
  load_tile<EACH>(p, first, end, limit, expert);
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) count[e] = base[e] = 0;
  __syncthreads();
  sum_matrix<Count>(p, matrix, count, base);
  __syncthreads();
  int total = scan_counts(count, start, wave_sum, p.num_experts, p.log_rows);
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) base[e] += start[e];
  if (blockIdx.x == 0) store_totals(count, total, wave_sum + MAX_WAVES, p);
  pad_experts(count, start, p, blockIdx.x, gridDim.x);
  for (; first < end; first += tile) {
    for (int i = threadIdx.x; i < blockDim.x / WAVE * p.pitch; i += blockDim.x) table[i] = 0;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < EACH; ++k) rank[k] = rank_in_wave(p, expert[k], table + wave * p.pitch);
    __syncthreads();
    sum_waves(p, table, tile_count);
    __syncthreads();
    int num_kept = 0;
    if (STAGED) {
      num_kept = scan_counts(tile_count, tile_start, wave_sum, p.num_experts, 0);
      __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
      int local = wave * (EACH * WAVE) + k * WAVE + lane, pair = static_cast<int>(first) + local, place = 0;
      bool is_kept = expert[k] < p.num_experts;
      if (is_kept) place = table[wave * p.pitch + expert[k]] + rank[k];
      int row = is_kept ? base[expert[k]] + place : 0;
      if (!STAGED) {
        if (first + local < end) store_pair(p, pair, expert[k], row);
        continue;
      }
      if (first + local < end) p.inverse[pair] = is_kept ? row : -1;
      if (is_kept) staged[tile_start[expert[k]] + place] = static_cast<unsigned>(expert[k]) << LOCAL_BITS | local;
    }
    if (STAGED) {
      load_tile<EACH>(p, first + tile, end, limit, expert);
      __syncthreads();
      for (int i = threadIdx.x; i < num_kept; i += blockDim.x) {
        int e = staged[i] >> LOCAL_BITS, pair = static_cast<int>(first) + (staged[i] & ((1 << LOCAL_BITS) - 1));
        store_row(p, base[e] + i - tile_start[e], pair, e);
      }
    } else {
      load_tile<EACH>(p, first + tile, end, limit, expert);
    }
    __syncthreads();
    for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) base[e] += tile_count[e];
  }
}

static int rounded(int value, int unit) { return (value + unit - 1) / unit * unit; }

struct Plan {
  int blocks, threads, span;  // `span`: pairs of a block, which takes them in one tile if it is the only launch
  bool is_direct, is_staged, is_short;
};

static Plan plan_for(int num_pairs, int num_experts, int max_blocks) {
  Plan plan = {};
  plan.is_direct = num_pairs <= DIRECT_PAIRS;
  if (plan.is_direct) {
    plan.span = rounded((num_pairs + MAX_DIRECT_BLOCKS - 1) / MAX_DIRECT_BLOCKS, WAVE);
    if (plan.span < WAVE) plan.span = WAVE;
    plan.blocks = (num_pairs + plan.span - 1) / plan.span;
    if (plan.blocks < MIN_DIRECT_BLOCKS) plan.blocks = MIN_DIRECT_BLOCKS;
    plan.threads = num_pairs <= 1024 ? 256 : num_pairs >= 4096 ? THREADS : rounded(num_pairs / 4, WAVE);
    return plan;
  }
  plan.threads = num_experts <= 256 ? THREADS : THREADS / 2;  // the table of waves and experts has to fit
  plan.blocks = (num_pairs + SMALL_SPAN - 1) / SMALL_SPAN;
  if (plan.blocks > max_blocks) plan.blocks = max_blocks;
  plan.span = rounded((num_pairs + plan.blocks - 1) / plan.blocks, 4);
  plan.is_staged = plan.span > SMALL_SPAN;
  plan.is_short = plan.span <= MAX_SHORT_COUNT;
  return plan;
}

template <class Count>
static int launch_two(const Problem& p, const Plan& plan, void* workspace, STREAM stream) {
  Count* matrix = static_cast<Count*>(workspace);
  int blocks = plan.blocks, threads = plan.threads, span = plan.span;
  size_t head = (5 * p.num_experts + MAX_WAVES + 1) * sizeof(int);
  size_t bytes = head + (plan.is_staged ? EACH_STAGED * threads * sizeof(int) : 0) + threads / WAVE * p.pitch * 2;
  count_kernel<Count><<<blocks, threads, (p.num_experts + 1) * sizeof(int), stream>>>(p, matrix, span);
  if (plan.is_staged) place_kernel<Count, EACH_STAGED><<<blocks, threads, bytes, stream>>>(p, matrix, span);
  else place_kernel<Count, SMALL_SPAN / THREADS><<<blocks, threads, bytes, stream>>>(p, matrix, span);
  return LAST_ERROR();
}

// Bytes of device memory that `proa_align` needs for these sizes.
extern "C" int proa_align_workspace(int num_pairs, int num_experts, int max_blocks) {
  Plan plan = plan_for(num_pairs, num_experts, max_blocks);
  return plan.is_direct ? 0 : plan.blocks * num_experts * (plan.is_short ? 2 : 4);
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
  if (plan.is_direct) {
    size_t bytes = (3 * num_experts + 2 + MAX_WAVES) * sizeof(int) + plan.span / WAVE * p.pitch * 2;
    direct_kernel<<<plan.blocks, plan.threads, bytes, stream>>>(p, plan.span);
    return LAST_ERROR();
  }
  return plan.is_short ? launch_two<Short>(p, plan, workspace, stream) : launch_two<int>(p, plan, workspace, stream);
}
