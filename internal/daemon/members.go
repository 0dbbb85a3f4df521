package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/podsnap/podsnap/controlplane/member"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/gateway/async/peers"
	"github.com/podsnap/podsnap/internal/daemon/embedded"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/internal/pause"
)

// meetServers finds out with whom this server keeps its embedded stores: those that
// it began with, or, of one that has come later, those that have taken it in. It asks
// them as long as it has no data.
func (p *platform) meetServers(ctx context.Context) (err error) {
	if p.secrets.natsAdmin, err = p.c.secret("nats-admin-token"); err != nil || p.c.Beside == "" {
		return err
	}
	if p.c.Beside, err = serverURL(p.c.Beside); err != nil {
		return err
	}
	if p.c.NodeIP == "" {
		if p.c.NodeIP, err = addressTowards(ctx, p.c.Beside); err != nil {
			return err
		}
	}
	known, err := embedded.Look(p.c.path("store"))
	if err != nil {
		return err
	}
	p.c.Servers, p.c.natsName = known.Members, known.NATS
	if known.Data {
		if len(p.c.Servers) == 0 {
			return fmt.Errorf("--join: the data in %s is one server's alone, and cannot become a cluster's: use another --state-dir", p.c.StateDir)
		}
		return nil
	}
	if p.c.natsName == "" {
		p.c.natsName = embedded.NewNATSName(p.c.NodeIP)
	}
	return p.enter(ctx)
}

// newcomer is this server to the others.
func (p *platform) newcomer() join.Newcomer {
	return join.Newcomer{Name: p.c.NodeName, Address: p.c.NodeIP, NATS: p.c.natsName, Version: p.c.Version}
}

// enter asks the others to be taken in.
func (p *platform) enter(ctx context.Context) error {
	client, err := p.toServers()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return p.asked(ctx, "join "+p.c.Beside, func(ctx context.Context) (err error) {
		p.c.Servers, err = join.EnterMember(ctx, client, p.c.Beside, p.newcomer())
		return err
	})
}

// asked does what other servers are asked for, until they have done it or refuse.
func (p *platform) asked(ctx context.Context, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, joinTries)
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		short, end := context.WithTimeout(ctx, 15*time.Second)
		err := do(short)
		end()
		if err == nil {
			return nil
		}
		refused, ok := errors.AsType[*join.Refused](err)
		if ok && refused.Code < http.StatusInternalServerError {
			return fmt.Errorf("%s: %w", what, err)
		}
		p.log.Info("the other servers are asked again", slog.String("to", what), slog.Any("reason", err))
		if !pause.For(ctx, wait) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// awaitVote returns when this server's etcd has a vote, as all have but one that has
// just come: it has to catch up with the others first.
func (p *platform) awaitVote(ctx context.Context, client *store.Client, others *http.Client) error {
	if p.c.Beside == "" {
		return nil
	}
	short, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	st, err := client.Status(short, client.Endpoints()[0])
	if err != nil {
		return fmt.Errorf("this server's etcd: %w", err)
	}
	if !st.IsLearner {
		return nil
	}
	if err := p.asked(ctx, "catch up with the servers", func(ctx context.Context) error {
		return join.PromoteMember(ctx, others, p.c.Beside, p.newcomer())
	}); err != nil {
		return err
	}
	// It knows of its vote a moment after the others do.
	return p.asked(ctx, "have a vote", func(ctx context.Context) error {
		st, err := client.Status(ctx, client.Endpoints()[0])
		if err == nil && st.IsLearner {
			err = errors.New("this server's etcd has not heard of it")
		}
		return err
	})
}

// recordsPrefix is where the members' records are.
func (t *terms) recordsPrefix() string { return t.p.c.EtcdPrefix + "-servers/store/" }

// followMembers says who this member is, and keeps who the others are.
func (t *terms) followMembers(ctx context.Context) error {
	dir := t.p.c.path("store")
	known, err := embedded.Look(dir)
	if err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := member.Say(short, t.client, t.recordsPrefix(), member.Record{Name: t.self.Name, Address: t.p.c.NodeIP, NATS: known.NATS}); err != nil {
		return fmt.Errorf("etcd at %s: %w", strings.Join(t.p.c.Etcd, ", "), err)
	}
	t.p.stack.start(ctx, "members of the stores", func(ctx context.Context) error {
		return member.Follow(ctx, t.client, t.recordsPrefix(), func(all []string) error { return embedded.Remember(dir, all) }, t.p.log)
	})
	return nil
}

// memberDesk is where members come and go while this server leads.
func (t *terms) memberDesk() http.Handler {
	return member.New(member.Config{
		Client: t.client, Prefix: t.recordsPrefix(), PeerURL: t.p.c.member().PeerURL, NATS: embedded.NATSName,
		Queue:   copies{peers.Peers{URL: t.natsURL, Admin: t.p.secrets.natsAdmin}},
		Running: t.members.List, Look: look, Self: t.self, Log: t.p.log,
	})
}

// copies is NATS' cluster to those who change members.
type copies struct{ peers.Peers }

var _ member.Queue = copies{}

// Copies implements member.Queue.
func (c copies) Copies(ctx context.Context) ([]member.Copies, error) {
	all, err := c.Streams(ctx)
	out := make([]member.Copies, 0, len(all))
	for _, s := range all {
		out = append(out, member.Copies{Want: s.Want, On: s.On})
	}
	return out, err
}

// changeMembers serves the members of the stores, where there are several.
func (k *control) changeMembers() http.Handler {
	if k.members != nil {
		return k.members
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "this cluster has one server, or stores of its own: there are no members to change", http.StatusNotFound)
	})
}
