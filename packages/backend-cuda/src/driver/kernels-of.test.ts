import { expect, test } from 'vitest';
import { kernelsOf } from './kernels-of.js';

const head = `.version 8.0
.target sm_90a
.address_size 64

.func (.param .b32 result) slow_path
(
	.param .b32 x
)
;
`;
const announced = (name: string) => `	// .globl	${name}\n`;
// What the second needs is declared before the first, which needs it too.
const shared = '.extern .shared .align 16 .b8 dynamic_shared[];\n';
// Inline PTX is written as it stands, at the beginning of a line.
const entry = (name: string) => `.visible .entry ${name}(
	.param .u64 ${name}_param_0
)
{
	// begin inline asm
	{
.reg .pred p;
}

	// end inline asm
	ret;

}
`;
const slowPath = `.func (.param .b32 result) slow_path(
	.param .b32 x
)
{
	ret;
}
`;
const module = [
  head,
  announced('first'),
  shared,
  entry('first'),
  announced('first_of_two'),
  entry('first_of_two'),
  slowPath,
].join('');

test('a kernel stands alone with what all kernels need', () => {
  expect(kernelsOf(module)('first')).toBe(
    [head, announced('first'), shared, entry('first'), announced('first_of_two'), slowPath].join(
      '',
    ),
  );
  expect(kernelsOf(module)('first_of_two')).toBe(
    [
      head,
      announced('first'),
      shared,
      announced('first_of_two'),
      entry('first_of_two'),
      slowPath,
    ].join(''),
  );
});

test('none is left where the name is of none', () => {
  expect(kernelsOf(module)('firs')).not.toContain('.entry');
  expect(kernelsOf('// a stand-in')('first')).toBe('// a stand-in');
});
