package autoscale

import (
	"math"
	"time"
)

// The histogram's shape: from leastGap on, perOctave bins to each doubling, up
// to about a day.
const (
	leastGap  = time.Second
	perOctave = 8
	gapBins   = 132 // 1 s × 2^(132÷8) is 25.7 h
)

// fewGaps is how many gaps have to be known before anything is learned from
// them.
const fewGaps = 8

// Gaps is a histogram of how long a function has nothing to do between
// requests, after Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020),
// with bins that grow, so that it covers seconds and hours in about 200 bytes.
// Gaps of less than a second do not count: a replica outlives them in any case.
// Old gaps fade: when a bin is full, all are halved. The zero value is empty.
type Gaps struct {
	bins  [gapBins]uint8
	count uint16

	learned Keep          // of the histogram as it is, when worth is
	worth   time.Duration // what it was learned for; 0: not yet
}

// Count is how many gaps are remembered.
func (g *Gaps) Count() int { return int(g.count) }

// Add takes a gap in.
func (g *Gaps) Add(gap time.Duration) {
	if gap < leastGap {
		return
	}
	i := binOf(gap)
	if g.bins[i] == math.MaxUint8 {
		g.count = 0
		for j := range g.bins {
			g.bins[j] /= 2
			g.count += uint16(g.bins[j])
		}
	}
	g.bins[i]++
	g.count++
	g.worth = 0
}

func binOf(gap time.Duration) int {
	return min(int(perOctave*math.Log2(float64(gap)/float64(leastGap))), gapBins-1)
}

// edge is where a bin begins.
func edge(bin int) time.Duration {
	return time.Duration(float64(leastGap) * math.Exp2(float64(bin)/perOctave))
}

// Percentile is a gap that p percent of all are not longer than, rounded up to
// a bin's edge; 0 when there are none.
func (g *Gaps) Percentile(p float64) time.Duration {
	need, sum := p/100*float64(g.count), 0.0
	for i, c := range g.bins {
		if sum += float64(c); c > 0 && sum >= need {
			return edge(i + 1)
		}
	}
	return 0
}

// Soon is the probability that a request comes within the next horizon, given
// that there has been none for idle. Where little is known it is taken that
// what was idle for long stays so: the more gaps reach as far, the more they
// count against that.
func (g *Gaps) Soon(idle, horizon time.Duration) float64 {
	ended, reach := 0.0, 0.0
	for i := binOf(max(idle, leastGap)); i < gapBins; i++ {
		c := float64(g.bins[i])
		reach += c
		if edge(i) < idle+horizon {
			ended += c
		}
	}
	// One gap's weight for the guess without data: as long again as until now.
	guess := horizon.Seconds() / (horizon + max(idle, leastGap)).Seconds()
	return (ended + guess) / (reach + 1)
}
