package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/controlplane/leader"
	stores "github.com/podsnap/podsnap/controlplane/member"
	"github.com/podsnap/podsnap/gateway/async/peers"
	"github.com/podsnap/podsnap/internal/join"
)

// queue is NATS' cluster to the desk.
type queue struct{ peers.Peers }

func (q queue) Copies(ctx context.Context) ([]stores.Copies, error) {
	all, err := q.Streams(ctx)
	out := make([]stores.Copies, 0, len(all))
	for _, s := range all {
		out = append(out, stores.Copies{Want: s.Want, On: s.On})
	}
	return out, err
}

// desk is where members come and go, by way of one of them.
func (all members) desk(by *member) *stores.Desk {
	return stores.New(stores.Config{
		Client: by.kv, Prefix: "/stores/", PeerURL: by.c.Cluster.PeerURL, NATS: NATSName,
		Queue: queue{peers.Peers{URL: "nats://" + by.c.NATSToken + "@" + by.c.NATS, Admin: by.c.NATSAdmin}},
		Running: func(context.Context) ([]leader.Server, error) {
			var out []leader.Server
			for _, m := range all {
				if m.cmd != nil {
					out = append(out, leader.Server{ID: m.c.Cluster.Self, URL: "https://" + m.c.Cluster.Self + ":6443"})
				}
			}
			return out, nil
		},
		Look: func(context.Context, leader.Server) leader.Sight { return leader.Alive },
		Self: leader.Server{ID: by.c.Cluster.Self},
	})
}

// follow has a member keep who the others are, as a server does.
func (m *member) follow() {
	ctx, cancel := context.WithCancel(m.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = stores.Follow(ctx, m.kv, "/stores/", func(all []string) error { return Remember(m.c.Dir, all) }, slog.New(slog.DiscardHandler))
	}()
	m.t.Cleanup(func() { cancel(); <-done })
}

// One of three loses its disk, and another one takes its place while the others
// serve. Then one of the others is lost as well, and nothing is missing.
func TestMembersChange(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	four := newMembersAt(t, newAuthority(t), "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
	old, late := four[:3], four[3]
	for _, m := range four {
		m.c.NATSAdmin = "admin"
		m.c.Cluster.Members = []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}
	}
	old.start()
	for _, m := range old {
		m.follow()
		m.say(stores.Record{Name: "n" + m.c.Cluster.Self, Address: m.c.Cluster.Self, NATS: m.name()})
	}
	keep, gone, lost := old[0], old[1], old[2]
	seen := newSeen()
	q, stop := runQueue(t, keep, 3, seen)
	defer stop()
	accepted := map[string]bool{}
	store := func(when string) {
		t.Helper()
		for i := range 20 {
			id := fmt.Sprint(when, "-", i)
			until(t, 60*time.Second, "a call is stored", func() error { return q.Enqueue(ctx, call(id)) })
			accepted[id] = true
		}
	}
	store("three")
	desk := four.desk(keep)
	refused(t, desk.Remove(ctx, lost.c.Cluster.Self), "it runs")
	refused(t, desk.Remove(ctx, "nobody"), "not found")

	lost.kill()
	if err := desk.Remove(ctx, "n"+lost.c.Cluster.Self); err != nil {
		t.Fatal(err)
	}
	refused(t, desk.Remove(ctx, lost.c.Cluster.Self), "not found")
	store("two")
	fourth := join.Newcomer{Name: "late", Address: late.c.Cluster.Self, NATS: NewNATSName(late.c.Cluster.Self)}
	refused(t, enter(desk.Enter(ctx, join.Newcomer{Name: "n127.0.0.2", Address: "127.0.0.9"})), "there is a server n127.0.0.2")
	refused(t, enter(desk.Enter(ctx, join.Newcomer{Name: "again", Address: gone.c.Cluster.Self})), "is a member")
	// etcd wants the others to have been there for five seconds.
	until(t, 30*time.Second, "the newcomer is taken in", func() error { return enter(desk.Enter(ctx, fourth)) })
	list, err := desk.Enter(ctx, fourth) // as after a start that was cut off
	if want := []string{"127.0.0.1", "127.0.0.2", "127.0.0.4"}; err != nil || !slices.Equal(list, want) {
		t.Fatalf("the members are %v, %v; want %v", list, err, want)
	}
	late.c.Cluster.Members, late.c.Cluster.Joining, late.c.Cluster.NATSName = list, true, fourth.NATS
	late.start()
	late.ready()
	late.connect()
	late.follow()
	until(t, 30*time.Second, "a vote", func() error { return desk.Promote(ctx, fourth) })
	until(t, 30*time.Second, "it has heard of its vote", func() error {
		return stores.Say(ctx, late.kv, "/stores/", stores.Record{Name: "late", Address: fourth.Address, NATS: fourth.NATS})
	})
	until(t, 60*time.Second, "all is on three disks again", func() error {
		all, err := desk.List(ctx)
		if err != nil {
			return err
		}
		if len(all) != 3 || slices.ContainsFunc(all, func(m join.Member) bool { return m.Status != join.MemberReady }) {
			return fmt.Errorf("the members are %+v", all)
		}
		return nil
	})
	store("again three")

	gone.kill()
	store("without another one")
	until(t, 60*time.Second, "every accepted call is made", func() error { return seen.lackOf(accepted) })
	until(t, 30*time.Second, "a write", func() error {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := late.kv.Put(short, "key", "value")
		return err
	})
	refused(t, four.desk(late).Remove(ctx, gone.c.Cluster.Self), "")
	late.kill() // it finds its way back with what it was started with
	late.start()
	late.ready()
}

func enter(_ []string, err error) error { return err }

// refused wants an error that says something; nothing is no error.
func refused(t *testing.T, err error, says string) {
	t.Helper()
	if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
		t.Errorf("%v, want %q", err, says)
	}
}

func (m *member) say(r stores.Record) {
	m.t.Helper()
	if err := stores.Say(m.t.Context(), m.kv, "/stores/", r); err != nil {
		m.t.Fatal(err)
	}
}
