package enroll

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/test/bubble"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// busy is a store that answers the first creations of Nodes too late, having done them
// or not; or holds them.
type busy struct {
	api.Objects
	late []bool        // what is done of each
	hold chan struct{} // not nil: a creation waits for an element
}

func (b *busy) Create(ctx context.Context, o api.Object) (api.Object, error) {
	if _, ok := o.(*corev1.Node); !ok {
		return b.Objects.Create(ctx, o)
	}
	if b.hold != nil {
		<-b.hold
	}
	if len(b.late) == 0 {
		return b.Objects.Create(ctx, o)
	}
	done := b.late[0]
	b.late = b.late[1:]
	if done {
		if _, err := b.Objects.Create(ctx, o); err != nil {
			return nil, err
		}
	}
	return nil, apierrors.NewTimeoutError("etcd did not answer", 0)
}

// A token for one machine is not lost by a store that answers late.
func TestJoinWhileTheStoreIsBusy(t *testing.T) {
	for _, late := range [][]bool{{false}, {true}, {false, false, true}} {
		r := newRigOver(t, func(o api.Objects) api.Objects { return &busy{Objects: o, late: late} })
		if _, a, err := r.join(r.token(nil), "n1"); err != nil || len(a.Certificate) == 0 {
			t.Errorf("%v: %v, want a certificate", late, err)
		}
		nodes, err := api.Items[*corev1.Node](t.Context(), r.objects, api.Nodes, api.ListOptions{})
		if err != nil || len(nodes) != 1 {
			t.Errorf("%v: %d nodes (%v), want one", late, len(nodes), err)
		}
	}
}

// Machines that come at once wait for their turn, and are told to come back when that
// takes too long.
func TestTooManyMachinesAtOnce(t *testing.T) {
	a := authority(t)
	_, csr, err := join.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	bubble.Test(t, func(t *testing.T) {
		o := memory.New()
		token := join.NewToken(a.Certificate.Raw)
		for _, obj := range []api.Object{
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: api.SystemNamespace}},
			&corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: join.SecretPrefix + token.ID}, Type: join.SecretType,
				Data: map[string][]byte{
					join.KeyHash: []byte(token.Hash()), join.KeyReusable: []byte("true"),
					join.KeyExpires: []byte(time.Now().Add(time.Hour).Format(time.RFC3339)),
				},
			},
		} {
			if _, err := o.Create(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
		}
		a.Certificate.NotBefore, a.Certificate.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		hold := make(chan struct{})
		d := New(Config{Objects: &busy{Objects: o, hold: hold}, Authority: a, AtOnce: 2})
		var wg sync.WaitGroup
		answers := make([]*httptest.ResponseRecorder, 5)
		for i := range answers {
			answers[i] = httptest.NewRecorder()
			b, err := json.Marshal(join.Request{Token: token.ID + "." + token.Secret, Node: fmt.Sprint("n", i), CSR: csr})
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				d.Join(answers[i], httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(string(b))))
			})
			synctest.Wait()
		}
		time.Sleep(turnWithin - time.Second)
		hold <- struct{}{} // the third has its turn
		synctest.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for _, r := range answers[3:] {
			if r.Code != http.StatusTooManyRequests || !strings.Contains(r.Body.String(), `"retryAfterSeconds":1`) {
				t.Errorf("got %d %s, want 429 and when to come back", r.Code, r.Body)
			}
		}
		hold <- struct{}{}
		hold <- struct{}{}
		wg.Wait()
		for i, r := range answers[:3] {
			if r.Code != http.StatusOK {
				t.Errorf("machine %d: %d %s, want 200", i, r.Code, r.Body)
			}
		}
	})
}
