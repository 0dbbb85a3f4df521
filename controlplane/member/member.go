// Package member changes who keeps the servers' stores: the members of the clusters
// that their embedded etcd and NATS are (docs/design/024).
package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podsnap/podsnap/controlplane/leader"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/internal/pause"
	"github.com/podsnap/podsnap/internal/skew"
)

// Record is what a member says of itself, in etcd, for as long as it is one.
type Record struct {
	Name    string `json:"name"` // of its node
	Address string `json:"address"`
	NATS    string `json:"nats"` // what its NATS is called
}

// Queue is the cluster of NATS.
type Queue interface {
	// Copies tells of everything that is stored how many have it.
	Copies(ctx context.Context) ([]Copies, error)
	// Remove takes a server out for good; nil too when it was no member. It waits for
	// NATS to have a leader, until ctx is done.
	Remove(ctx context.Context, server string) error
}

// Config says what is changed. All but Log have to be set.
type Config struct {
	Client  *clientv3.Client
	Prefix  string                      // of the members' records
	PeerURL func(address string) string // of a member's etcd
	Queue   Queue
	NATS    func(address string) string // what NATS is called at a member without a record
	// Running are the servers that run, and Look what is known of one by its machine.
	Running func(context.Context) ([]leader.Server, error)
	Look    func(context.Context, leader.Server) leader.Sight
	Self    leader.Server // which leads
	Log     *slog.Logger
}

// removeTimeout bounds a removal. NATS takes up to ten seconds for a leader.
const removeTimeout = 30 * time.Second

// stable is how long it is waited for the other members to be there long enough.
const stable = 6 * time.Second

// Desk is where members come and go, at the server that leads.
type Desk struct{ c Config }

// New makes one.
func New(c Config) *Desk {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Desk{c}
}

// voters are the members by etcd's account.
func (d *Desk) voters(ctx context.Context) ([]voter, error) {
	return voters(ctx, d.c.Client)
}

func voters(ctx context.Context, client *clientv3.Client) ([]voter, error) {
	resp, err := client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("etcd's members: %w", err)
	}
	out := make([]voter, 0, len(resp.Members))
	for _, m := range resp.Members {
		v := voter{id: m.ID, learner: m.IsLearner, begun: m.Name != ""}
		for _, u := range m.PeerURLs {
			if p, err := url.Parse(u); err == nil {
				v.address = p.Hostname()
			}
		}
		out = append(out, v)
	}
	return out, nil
}

func (d *Desk) records(ctx context.Context) ([]Record, error) {
	resp, err := d.c.Client.Get(ctx, d.c.Prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("the members' records: %w", err)
	}
	out := make([]Record, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		var r Record
		if err := json.Unmarshal(kv.Value, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", kv.Key, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// List answers with the members, by address.
func (d *Desk) List(ctx context.Context) ([]join.Member, error) {
	all, known, err := d.both(ctx)
	if err != nil {
		return nil, err
	}
	running, err := d.c.Running(ctx)
	if err != nil {
		return nil, err
	}
	copies, err := d.c.Queue.Copies(ctx)
	if err != nil { // it may be NATS that somebody is worried about
		d.c.Log.Info("which servers have copies is not known", slog.Any("error", err))
		copies = []Copies{{Want: 1}}
	}
	out := make([]join.Member, 0, len(all))
	for _, v := range all {
		m := join.Member{Address: v.address}
		nats := d.c.NATS(v.address)
		if i := slices.IndexFunc(known, func(r Record) bool { return r.Address == v.address }); i >= 0 {
			m.Name, nats = known[i].Name, known[i].NATS
		}
		i := slices.IndexFunc(running, func(s leader.Server) bool { return hostOf(s) == v.address })
		if i >= 0 && d.c.Look(ctx, running[i]) == leader.Alive {
			m.Version, m.Leads = running[i].Version, running[i].ID == d.c.Self.ID
		} else {
			i = -1
		}
		m.Status = status(v, i >= 0, nats, copies)
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b join.Member) int { return strings.Compare(a.Address, b.Address) })
	return out, nil
}

func (d *Desk) both(ctx context.Context) ([]voter, []Record, error) {
	all, err := d.voters(ctx)
	if err != nil {
		return nil, nil, err
	}
	known, err := d.records(ctx)
	return all, known, err
}

func hostOf(s leader.Server) string {
	u, err := url.Parse(s.URL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// Enter takes a server in, without a vote for now, and answers with the addresses of
// all members. Asked again, it answers again.
func (d *Desk) Enter(ctx context.Context, n join.Newcomer) ([]string, error) {
	if err := skew.Servers(d.c.Self.Version, n.Version); err != nil {
		return nil, refuse(n.Name, "%w", err)
	}
	all, known, err := d.both(ctx)
	if err != nil {
		return nil, err
	}
	what, err := admit(n, all, known)
	if err != nil {
		return nil, err
	}
	if what == forgotten {
		i := slices.IndexFunc(all, func(v voter) bool { return v.address == n.Address })
		if _, err := d.c.Client.MemberRemove(ctx, all[i].id); err != nil {
			return nil, told(n.Name, err)
		}
	}
	if what != again {
		if _, err := d.c.Client.MemberAddAsLearner(ctx, []string{d.c.PeerURL(n.Address)}); err != nil {
			return nil, told(n.Name, err)
		}
		d.c.Log.Info("a server joins", slog.String("server", n.Name), slog.String("address", n.Address))
	}
	// The others let its NATS in when they see this.
	if err := Say(ctx, d.c.Client, d.c.Prefix, Record{Name: n.Name, Address: n.Address, NATS: n.NATS}); err != nil {
		return nil, err
	}
	if all, err = d.voters(ctx); err != nil {
		return nil, err
	}
	return addresses(all), nil
}

func addresses(all []voter) []string {
	out := make([]string, 0, len(all))
	for _, v := range all {
		out = append(out, v.address)
	}
	slices.Sort(out)
	return out
}

// Promote gives a server its vote, if it is in step.
func (d *Desk) Promote(ctx context.Context, n join.Newcomer) error {
	all, err := d.voters(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(v voter) bool { return v.address == n.Address })
	switch {
	case i < 0:
		return apierrors.NewNotFound(resource, n.Address)
	case !all[i].learner:
		return nil
	}
	if _, err := d.c.Client.MemberPromote(ctx, all[i].id); err != nil {
		return told(n.Name, err)
	}
	d.c.Log.Info("a server has its vote", slog.String("server", n.Name), slog.String("address", n.Address))
	return nil
}

// Remove takes a server out of both clusters, by its name or address. Cut off, it is
// done by asking again.
func (d *Desk) Remove(ctx context.Context, name string) error {
	all, known, err := d.both(ctx)
	if err != nil {
		return err
	}
	running, err := d.c.Running(ctx)
	if err != nil {
		return err
	}
	var alive []string
	for _, s := range running {
		if d.c.Look(ctx, s) == leader.Alive {
			alive = append(alive, hostOf(s))
		}
	}
	out, err := leave(name, all, known, alive)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(all, func(v voter) bool { return v.address == out.Address }); i >= 0 {
		if err := d.forget(ctx, all[i].id); err != nil {
			return told(name, err)
		}
	}
	nats := out.NATS
	if nats == "" {
		nats = d.c.NATS(out.Address)
	}
	if err := d.c.Queue.Remove(ctx, nats); err != nil {
		return apierrors.NewServiceUnavailable("it is no member of etcd any more, but still one of NATS; ask again: " + err.Error())
	}
	if _, err := d.c.Client.Delete(ctx, path.Join(d.c.Prefix, out.Address)); err != nil {
		return err
	}
	if out.Name == "" { // nobody followed a record of it
		return nil
	}
	d.c.Log.Info("a server is no member any more", slog.String("server", out.Name), slog.String("address", out.Address))
	return nil
}

// forget takes a member out of etcd; nil too when it was none. etcd wants the others to
// have been there for five seconds, which is waited for.
func (d *Desk) forget(ctx context.Context, id uint64) error {
	end := time.Now().Add(stable)
	for {
		_, err := d.c.Client.MemberRemove(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			return nil
		}
		if !errors.Is(err, rpctypes.ErrUnhealthy) || time.Now().After(end) || !pause.For(ctx, 500*time.Millisecond) {
			return err
		}
	}
}

// told is etcd's no in our words. What may pass is asked again.
func told(name string, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrUnhealthy), errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return apierrors.NewServiceUnavailable(name + ": too many of the other servers are away, or were a few seconds ago: without most of them nothing can be stored. Start them, or remove those that are lost first")
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return apierrors.NewServiceUnavailable(name + ": another server joins just now; one comes after the other")
	case errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
		return apierrors.NewServiceUnavailable("it is not in step yet")
	}
	return err
}

// Say has a member's record be what it says.
func Say(ctx context.Context, client *clientv3.Client, prefix string, r Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = client.Put(ctx, path.Join(prefix, r.Address), string(b))
	return err
}

// Follow calls f with the addresses of all members, now and whenever they change,
// until ctx is done; nil then.
func Follow(ctx context.Context, client *clientv3.Client, prefix string, f func([]string) error, log *slog.Logger) error {
	for {
		err := follow(ctx, client, prefix, f)
		if ctx.Err() != nil {
			return nil
		}
		log.Debug("the members are not followed", slog.Any("error", err))
		if !pause.For(ctx, time.Second) {
			return nil
		}
	}
}

func follow(ctx context.Context, client *clientv3.Client, prefix string, f func([]string) error) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	changes := client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	for resp := range changes {
		if err := resp.Err(); err != nil {
			return err
		}
		all, err := voters(ctx, client)
		if err != nil {
			return err
		}
		if err := f(addresses(all)); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
