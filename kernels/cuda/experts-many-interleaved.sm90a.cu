// The expert op for many rows, with down's columns in the order of experts_segments_interleave.
#include "experts-many.cuh"

EXPERTS_MANY_KERNELS(_interleaved, true)
