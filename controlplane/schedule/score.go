package schedule

// The weights of the scores, each of which lies in 0..100. Spreading replicas
// counts most after taints: one lost node must not take a function with it.
const (
	weightLeast    = 1 // least allocated
	weightBalanced = 1 // cpu and memory used alike
	weightSpread   = 2 // few pods of the same group
	weightImage    = 1 // images are there already
	weightWarm     = 1 // the function had a replica there of late
	weightNode     = 2 // preferred node affinity
	weightPod      = 2 // preferred pod affinity
	weightTaint    = 3 // few untolerated PreferNoSchedule taints
)

// best is the candidate with the highest score, the first among equals.
func best(r *request, candidates []*node, nb *neighbours) (*node, int64) {
	raw := make([]raw, len(candidates))
	var top limits
	for i, n := range candidates {
		raw[i] = measure(r, n, nb)
		top.take(raw[i], i == 0)
	}
	var winner *node
	var high int64
	for i, n := range candidates {
		if s := top.score(raw[i]); winner == nil || s > high {
			winner, high = n, s
		}
	}
	return winner, high
}

// raw are scores that need the others' to become 0..100, but for absolute,
// which is weighted already.
type raw struct {
	absolute              int64
	group, taint          int
	preferred, neighbours int64
}

func measure(r *request, n *node, nb *neighbours) raw {
	cpu, mem := share(n.wish.cpu+r.wish.cpu, n.alloc.cpu), share(n.wish.memory+r.wish.memory, n.alloc.memory)
	o := raw{absolute: weightLeast*(100-(cpu+mem)/2) + weightBalanced*(100-abs(cpu-mem)/2)}
	if len(r.images) > 0 {
		there := 0
		for _, i := range r.images {
			if hasImage(n.image, i) {
				there++
			}
		}
		o.absolute += weightImage * int64(100*there/len(r.images))
	}
	if r.group != (group{}) {
		o.group = n.group[r.group]
		if n.warm[r.group] != 0 {
			o.absolute += weightWarm * 100
		}
	}
	for i := range n.soft {
		if !tolerates(r.pod, &n.soft[i]) {
			o.taint++
		}
	}
	if r.preferred != nil {
		o.preferred = r.preferred.Score(n.node)
	}
	o.neighbours = nb.score(r, n)
	return o
}

// limits are the extremes among the candidates.
type limits struct {
	group, taint   int
	preferred      int64
	likeLo, likeHi int64
}

func (l *limits) take(r raw, first bool) {
	l.group, l.taint, l.preferred = max(l.group, r.group), max(l.taint, r.taint), max(l.preferred, r.preferred)
	if first {
		l.likeLo, l.likeHi = r.neighbours, r.neighbours
	}
	l.likeLo, l.likeHi = min(l.likeLo, r.neighbours), max(l.likeHi, r.neighbours)
}

func (l *limits) score(r raw) int64 {
	s := r.absolute
	if l.group > 0 {
		s += weightSpread * int64(100*(l.group-r.group)/l.group)
	}
	if l.taint > 0 {
		s += weightTaint * int64(100*(l.taint-r.taint)/l.taint)
	}
	if l.preferred > 0 {
		s += weightNode * 100 * r.preferred / l.preferred
	}
	if l.likeHi > l.likeLo {
		s += weightPod * 100 * (r.neighbours - l.likeLo) / (l.likeHi - l.likeLo)
	}
	return s
}

// share is used of all in percent, at most 100.
func share(used, all int64) int64 {
	if all <= 0 || used >= all {
		return 100
	}
	return used * 100 / all
}

func abs(v int64) int64 {
	if v < 0 {
		return -v
	}
	return v
}
