//go:build !race

package hub

// slowest is what TCP through the hub must reach, in Mbit/s, on a machine that
// does other things too.
const slowest = 20
