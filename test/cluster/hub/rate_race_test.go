//go:build race

package hub

// slowest is what TCP through the hub must reach, in Mbit/s, with the race
// detector looking on.
const slowest = 5
