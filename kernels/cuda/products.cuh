// What the matrix products share: the order in which the tiles of a result are visited.
#pragma once
#include "common.cuh"

// Row and column of the tile at `index`, so that blocks which run at the same time share rows of a and columns of b:
// bands of `BAND` rows of tiles, each gone through column by column.
template <int BAND> __device__ __forceinline__ void products_tile_at(int index, int rows, int columns, int &row, int &column) {
  const int in_band = BAND * columns, band = index / in_band, rest = index - band * in_band;
  const int height = min(rows - band * BAND, BAND);
  column = rest / height;
  row = band * BAND + rest - column * height;
}
