// align & sort for CUDA and HIP from one text. Same outputs, bit for bit, as moe_align.py: pairs keep their order.
//
// Legend: N pairs, E experts, M = 1 << log_rows rows of a block. A tile is what one block ranks at once. The rank of a
// pair inside its tile is its rank among equal experts in its wave plus what earlier waves hold of that expert; no
// atomic decides an order. Few pairs take one launch; else `count_kernel` writes a [G, E] matrix and every block of
// `place_kernel` derives its own offsets from it, so the launch boundary is the only synchronisation between blocks.

#if defined(__HIP_PLATFORM_AMD__)
#include <hip/hip_runtime.h>
#define STREAM hipStream_t
#define LAST_ERROR() static_cast<int>(hipGetLastError())
#define SHUFFLE_UP(value, by) __shfl_up(value, by)
constexpr int WAVE = 64;
constexpr int ROWS_IN_FLIGHT = 4;  // eight spill scalar registers
#else
#include <cuda_runtime.h>
#define STREAM cudaStream_t
#define LAST_ERROR() static_cast<int>(cudaGetLastError())
#define SHUFFLE_UP(value, by) __shfl_up_sync(0xffffffffu, value, by)
constexpr int WAVE = 32;
constexpr int ROWS_IN_FLIGHT = 8;
#endif

typedef unsigned long long Lanes;
constexpr int THREADS = 1024;
constexpr int MAX_WAVES = THREADS / WAVE;
constexpr int TABLE_LIMIT = 40 * 1024;  // bytes of shared memory for the table of waves and experts

struct Problem {
  const int *ids, *map, *tokens;
  int *rows, *expert, *totals, *inverse, *counts;
  int num_pairs, per_token, num_experts, num_ids, log_rows, expert_bits;
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
#if defined(__HIP_PLATFORM_AMD__)
  Lanes equal = ~0ull;
  for (int bit = 0; bit < bits; ++bit) {
    bool is_set = (value >> bit) & 1;
    Lanes set = __ballot(is_set);
    equal &= is_set ? set : ~set;
  }
  return equal;
#else
  return __match_any_sync(0xffffffffu, value);
#endif
}

__device__ inline int padded(int count, int log_rows) {
  return (count + (1 << log_rows) - 1) >> log_rows << log_rows;
}

// Exclusive prefix of the padded counts into start[]; returns the total. Every thread of the block must call it.
__device__ int scan_starts(const int* count, int* start, int* wave_sum, const Problem& p) {
  int each = (p.num_experts + blockDim.x - 1) / blockDim.x;
  int first = threadIdx.x * each, last = min(first + each, p.num_experts);
  int mine = 0;
  for (int e = first; e < last; ++e) mine += padded(count[e], p.log_rows);
  int lane = threadIdx.x % WAVE, wave = threadIdx.x / WAVE, upto = mine;
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
    here += padded(count[e], p.log_rows);
  }
  return total;
}

// Ranks a tile: on return table[v][e] holds the pairs of e in earlier waves, tile_count[e] those of the tile, and
// rank[] the pair's place among its wave's pairs of the same expert. One thread barrier is still due.
template <int EACH>
__device__ void rank_tile(
    const int (&expert)[EACH], int (&rank)[EACH], unsigned short* table, int pitch, int waves, int* tile_count,
    const Problem& p) {
  int lane = threadIdx.x % WAVE, wave = threadIdx.x / WAVE, block_waves = blockDim.x / WAVE;
  unsigned* words = reinterpret_cast<unsigned*>(table);
  for (int i = threadIdx.x; i < waves * pitch / 2; i += blockDim.x) words[i] = 0;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    Lanes equal = equal_lanes(expert[k], p.expert_bits);
    rank[k] = __popcll(equal & ((1ull << lane) - 1));
    int v = k * block_waves + wave;
    if (rank[k] == 0 && expert[k] < p.num_experts) table[v * pitch + expert[k]] = __popcll(equal);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) {
    int before = 0;
#pragma unroll 8
    for (int v = 0; v < waves; ++v) {
      int here = table[v * pitch + e];
      table[v * pitch + e] = static_cast<unsigned short>(before);
      before += here;
    }
    tile_count[e] = before;
  }
}

__device__ inline void store_pair(const Problem& p, int pair, int expert, int row) {
  if (pair >= p.num_pairs) return;
  bool is_kept = expert < p.num_experts;
  p.inverse[pair] = is_kept ? row : -1;
  if (!is_kept) return;
  p.rows[row] = pair;
  if ((row & ((1 << p.log_rows) - 1)) == 0) p.expert[row >> p.log_rows] = expert;
}

// Waves take the experts first, first + step, ... in turn and fill what lacks to whole blocks.
__device__ void pad_experts(const int* count, const int* start, const Problem& p, int first, int step) {
  int lane = threadIdx.x % WAVE, wave = threadIdx.x / WAVE, block_waves = blockDim.x / WAVE;
  for (int e = first + wave * step; e < p.num_experts; e += block_waves * step)
    for (int r = count[e] + lane; r < padded(count[e], p.log_rows); r += WAVE) p.rows[start[e] + r] = p.num_pairs;
}

__device__ void store_totals(const int* count, int total, const Problem& p) {
  int kept = 0;
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) {
    p.counts[e] = count[e];
    kept += count[e];
  }
  if (threadIdx.x == 0) p.totals[0] = total;
  if (kept != 0) atomicAdd(&p.totals[1], kept);
}

extern __shared__ int shared[];

template <int EACH>
__global__ void __launch_bounds__(THREADS) one_kernel(Problem p, int pitch) {
  int* count = shared;
  int* start = count + p.num_experts;
  int* wave_sum = start + p.num_experts;
  unsigned short* table = reinterpret_cast<unsigned short*>(wave_sum + MAX_WAVES);
  int limit = pair_limit(p), wave = threadIdx.x / WAVE, block_waves = blockDim.x / WAVE;
  int expert[EACH], rank[EACH];
#pragma unroll
  for (int k = 0; k < EACH; ++k) expert[k] = load_expert(p, k * blockDim.x + threadIdx.x, limit);
  if (threadIdx.x == 0) p.totals[1] = 0;
  rank_tile<EACH>(expert, rank, table, pitch, EACH * block_waves, count, p);
  __syncthreads();
  int total = scan_starts(count, start, wave_sum, p);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    int row = 0;
    if (expert[k] < p.num_experts)
      row = start[expert[k]] + table[(k * block_waves + wave) * pitch + expert[k]] + rank[k];
    store_pair(p, k * blockDim.x + threadIdx.x, expert[k], row);
  }
  pad_experts(count, start, p, 0, 1);
  store_totals(count, total, p);
}

__global__ void __launch_bounds__(THREADS) count_kernel(Problem p, int* matrix, int span) {
  for (int e = threadIdx.x; e <= p.num_experts; e += blockDim.x) shared[e] = 0;
  __syncthreads();
  long long begin = static_cast<long long>(blockIdx.x) * span;
  int limit = pair_limit(p);
  int end = begin + span < limit ? static_cast<int>(begin) + span : limit;
  // The span is a multiple of the threads, so 16-byte loads stay aligned; the last few pairs are taken one by one.
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
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) matrix[blockIdx.x * p.num_experts + e] = shared[e];
  if (blockIdx.x == 0 && threadIdx.x == 0) p.totals[1] = 0;
}

__global__ void __launch_bounds__(THREADS) place_kernel(Problem p, const int* matrix, int span, int pitch) {
  int* count = shared;
  int* start = count + p.num_experts;
  int* base = start + p.num_experts;
  int* tile_count = base + p.num_experts;
  int* wave_sum = tile_count + p.num_experts;
  unsigned short* table = reinterpret_cast<unsigned short*>(wave_sum + MAX_WAVES);
  int limit = pair_limit(p), g = blockIdx.x, wave = threadIdx.x / WAVE, block_waves = blockDim.x / WAVE;
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) count[e] = base[e] = 0;
  __syncthreads();
  int parts = max(static_cast<int>(blockDim.x) / p.num_experts, 1);
  for (int i = threadIdx.x; i < parts * p.num_experts; i += blockDim.x) {
    int e = i % p.num_experts, all = 0, before = 0;
#pragma unroll ROWS_IN_FLIGHT
    for (int row = i / p.num_experts; row < gridDim.x; row += parts) {
      int here = matrix[row * p.num_experts + e];
      all += here;
      before += row < g ? here : 0;
    }
    atomicAdd(&count[e], all);
    atomicAdd(&base[e], before);
  }
  __syncthreads();
  int total = scan_starts(count, start, wave_sum, p);
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) base[e] += start[e];
  if (g == 0) store_totals(count, total, p);
  pad_experts(count, start, p, g, gridDim.x);
  long long end = min(static_cast<long long>(g + 1) * span, static_cast<long long>(p.num_pairs));
  for (long long first = static_cast<long long>(g) * span; first < end; first += blockDim.x) {
    int pair = static_cast<int>(first) + threadIdx.x;
    int expert[1] = {load_expert(p, pair, limit)}, rank[1];
    rank_tile<1>(expert, rank, table, pitch, block_waves, tile_count, p);
    __syncthreads();
    int row = 0;
    if (expert[0] < p.num_experts) row = base[expert[0]] + table[wave * pitch + expert[0]] + rank[0];
    store_pair(p, pair, expert[0], row);
    __syncthreads();
    for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) base[e] += tile_count[e];
  }
}

static int rounded(int value, int unit) { return (value + unit - 1) / unit * unit; }

// Blocks of the two-launch path, whose workspace is blocks * num_experts ints; 1 means one launch without workspace.
extern "C" int proa_align_blocks(int num_pairs, int num_experts, int max_blocks) {
  int each = num_pairs <= THREADS ? 1 : 2;
  int table = each * MAX_WAVES * rounded(num_experts, 8) * 2;
  if (num_pairs <= each * THREADS && table <= TABLE_LIMIT) return 1;
  int tiles = (num_pairs + THREADS - 1) / THREADS;
  return tiles < 2 ? 2 : tiles < max_blocks ? tiles : max_blocks;
}

// Returns 0, -1 for more experts than the tables hold, or the runtime's error. Pointers: see struct Problem.
extern "C" int proa_align(
    const int* ids, const int* map, const int* tokens, int num_pairs, int per_token, int num_experts, int num_ids,
    int log_rows, int blocks, int* workspace, int* rows, int* expert, int* totals, int* inverse, int* counts,
    STREAM stream) {
  int bits = 1, pitch = rounded(num_experts, 8);
  while ((1 << bits) <= num_experts) ++bits;
  Problem p = {ids, map, tokens, rows, expert, totals, inverse, counts, num_pairs, per_token, num_experts, num_ids,
               log_rows, bits};
  size_t head = (2 * num_experts + MAX_WAVES) * sizeof(int);
  if (blocks == 1) {
    int threads = num_pairs > THREADS ? THREADS : num_pairs <= 256 ? 256 : rounded(num_pairs, WAVE);
    size_t bytes = head + static_cast<size_t>(num_pairs > THREADS ? 2 : 1) * (threads / WAVE) * pitch * 2;
    if (num_pairs > THREADS) one_kernel<2><<<1, threads, bytes, stream>>>(p, pitch);
    else one_kernel<1><<<1, threads, bytes, stream>>>(p, pitch);
    return LAST_ERROR();
  }
  size_t table = static_cast<size_t>(MAX_WAVES) * pitch * 2;
  if (table > TABLE_LIMIT) return -1;
  int span = rounded((num_pairs + blocks - 1) / blocks, THREADS);
  count_kernel<<<blocks, THREADS, (num_experts + 1) * sizeof(int), stream>>>(p, workspace, span);
  place_kernel<<<blocks, THREADS, head + 2 * num_experts * sizeof(int) + table, stream>>>(p, workspace, span, pitch);
  return LAST_ERROR();
}
