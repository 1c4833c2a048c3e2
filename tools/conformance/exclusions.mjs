/**
 * Specs that a backend with float32 and int32 cannot pass, by what their full names contain. Nothing else belongs here.
 *
 * @type {readonly { name: string, reason: string }[]}
 */
export const exclusions = [];
