package apiserver

import (
	"sync"

	"github.com/podsnap/podsnap/controlplane/access"
)

// room is how many streams there may be at once. Each node has its own: it needs
// some twenty, and as many nodes as there are must not take those of people and
// controllers, nor one that has lost count those of the others.
type room struct {
	most, ofNode int

	mu    sync.Mutex
	taken int            // by all that are no nodes
	nodes map[string]int // by node; those that have none are left out
}

// streamsOfNode is how many a node may have.
const streamsOfNode = 200

func newRoom(most int) *room {
	return &room{most: most, ofNode: streamsOfNode, nodes: map[string]int{}}
}

// enter takes a place, and gives it back when leave is called; false if none is
// free.
func (r *room) enter(u access.User) (leave func(), ok bool) {
	node := u.Node()
	r.mu.Lock()
	defer r.mu.Unlock()
	if node == "" {
		if r.taken >= r.most {
			return nil, false
		}
		r.taken++
		return func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.taken--
		}, true
	}
	if r.nodes[node] >= r.ofNode {
		return nil, false
	}
	r.nodes[node]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.nodes[node]--; r.nodes[node] == 0 {
			delete(r.nodes, node)
		}
	}, true
}
