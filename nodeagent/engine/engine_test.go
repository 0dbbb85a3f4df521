package engine

import (
	"testing"
	"time"
)

func TestFirst(t *testing.T) {
	begin := time.Now()
	n := newNode(t)
	t.Logf("node up in %v", time.Since(begin))
	sb := n.sandbox("first")
	t.Logf("sandbox %+v", sb)
	c := n.start(n.spec(sb, "serve"))
	got, err := get(sb.IP, "/x")
	t.Log(got, err, c)
	x, out := n.run(n.spec(sb, "show"))
	t.Logf("%+v\n%s", x, out)
}
