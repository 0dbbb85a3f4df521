package apiserver

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func aNode(n int) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%04d", n), ResourceVersion: fmt.Sprint(n)}}
}

// A text is made once for all, for nodes' view of an object another one.
func TestTextsAreMadeOnce(t *testing.T) {
	x, n := newTexts(), aNode(1)
	var trims atomic.Int64
	view := &api.View{Show: func(api.Object) api.Object { trims.Add(1); return aNode(2) }}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			whole, err := x.of(n, nil)
			if err != nil || !strings.Contains(string(whole), `"n0001"`) || !strings.Contains(string(whole), `"kind":"Node"`) {
				t.Errorf("got %s, %v", whole, err)
			}
			part, err := x.of(n, view)
			if err != nil || !strings.Contains(string(part), `"n0002"`) {
				t.Errorf("trimmed: got %s, %v", part, err)
			}
		})
	}
	wg.Wait()
	if trims.Load() != 1 || len(x.made) != 2 {
		t.Errorf("trimmed %d times, %d texts are kept; want 1 and 2", trims.Load(), len(x.made))
	}
}

// Texts take no more room than there is; one that has gone is made again.
func TestTextsMakeRoom(t *testing.T) {
	x := newTexts()
	one, err := json.Marshal(stamped(aNode(1)))
	if err != nil {
		t.Fatal(err)
	}
	x.most = 4 * len(one)
	nodes := make([]*corev1.Node, 50)
	for i := range nodes {
		nodes[i] = aNode(1000 + i)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, n := range nodes {
				if b, err := x.of(n, nil); err != nil || !strings.Contains(string(b), n.Name) {
					t.Errorf("%s: got %s, %v", n.Name, b, err)
				}
			}
		})
	}
	wg.Wait()
	held := 0
	for _, m := range x.made {
		held += len(m.b)
	}
	if held > x.most || held != x.size || len(x.made) != len(x.old) {
		t.Errorf("%d bytes are held, %d counted, of %d; %d texts in %d places", held, x.size, x.most, len(x.made), len(x.old))
	}
}
