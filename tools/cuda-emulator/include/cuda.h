// Everything is in cuda-emulated.h, which comes before every kernel file.
