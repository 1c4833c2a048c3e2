// The expert op for many rows, with down's columns as they are stored.
#include "experts-many.cuh"

EXPERTS_MANY_KERNELS(, false)
