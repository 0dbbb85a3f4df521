package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/podsnap/podsnap/api/relay"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/builder/registry"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/leader"
	"github.com/podsnap/podsnap/controlplane/soft"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/internal/skew"
	"github.com/prometheus/client_golang/prometheus"
)

// terms are a server's times of leadership, and what it stands on between them.
type terms struct {
	p        *platform
	client   *store.Client // of etcd
	natsURL  string
	registry *registry.Registry
	self     leader.Server
	election *leader.Election
	members  *leader.Members
	http     *http.Client // to other servers
	relay    *relay.Relay

	ending sync.WaitGroup // queues of former terms, whose calls go on

	mu      sync.Mutex
	at      leader.Server        // that relay points at
	api     http.Handler         // to it
	gateway http.Handler         // to its gateway
	metrics *prometheus.Registry // of the term; nil between terms
}

// leadership is the part of the stack that stands for election.
const leadership = "leadership"

// formerQueues is the part that waits for the calls of former terms.
const formerQueues = "former queues"

// startShared brings up a server whose stores other servers share: a node like any
// other, and the control plane while it leads.
func (p *platform) startShared(ctx context.Context) (err error) {
	doors := p.c.serverDoors()
	if p.c.reachable() {
		doors["agent-listen"] = p.c.AgentListen
	}
	ls, err := p.listen(ctx, doors)
	if err != nil {
		return err
	}
	defer ls.closeUnless(&err)
	if err := p.c.takeToken(); err != nil {
		return err
	}
	if err := p.readSecrets(); err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	if len(p.c.Servers) > 0 || p.c.Beside != "" {
		if err := p.meetServers(ctx); err != nil {
			return err
		}
		if err := p.c.storeCertificates(); err != nil {
			return fmt.Errorf("the stores' certificates: %w", err)
		}
	}
	natsURL, err := p.startChildren(ctx)
	if err != nil {
		return err
	}
	t, err := p.newTerms(ctx, natsURL)
	if err != nil {
		return err
	}
	p.objects, p.tokens = t.relay.Objects(), t.relay.Tokens()
	if err := p.newNeighbours(); err != nil {
		return err
	}
	if t.registry, err = p.newRegistry(); err != nil {
		return err
	}
	if err := p.newGateway(t.relay.Capacity(), t.registry, t.manage); err != nil {
		return err
	}
	p.stack.start(ctx, formerQueues, func(ctx context.Context) error {
		<-ctx.Done()
		t.ending.Wait()
		return nil
	})
	p.serveAPI(ctx, ls["api-listen"], http.HandlerFunc(t.serveAPI))
	p.stack.start(ctx, "leader's seams", t.follow)
	p.stack.start(ctx, leadership, func(ctx context.Context) error { return t.election.Run(ctx, t.lead) })
	if err := p.registerSoon(ctx); err != nil {
		return err
	}
	nc := nodeConfig{registries: registries(&p.c, p.secrets), ip: p.c.NodeIP}
	if l := ls["agent-listen"]; l != nil {
		if nc.port, err = portOf(l); err != nil {
			return err
		}
	}
	if err := p.startNode(ctx, nc); err != nil {
		return err
	}
	if l := ls["agent-listen"]; l != nil {
		pair, err := p.c.control()
		if err != nil {
			return err
		}
		p.serveAgent(ctx, l, p.trusted(), func() *tls.Certificate { return &pair })
	}
	p.serveAPIInside(ctx, http.HandlerFunc(t.serveAPI))
	p.startGateway(ctx, t.registry)
	p.stack.start(ctx, "copies of images", t.copyImages)
	return p.serve(ctx, ls, t.gather)
}

// newTerms enters the cluster that the stores are of.
func (p *platform) newTerms(ctx context.Context, natsURL string) (*terms, error) {
	client, err := p.dialStore(ctx)
	if err != nil {
		return nil, err
	}
	id, err := p.c.serverID()
	if err != nil {
		return nil, err
	}
	at, err := p.apiURL()
	if err != nil {
		return nil, err
	}
	t := &terms{p: p, client: client, natsURL: natsURL, self: leader.Server{ID: id, Name: p.c.NodeName, URL: at, Version: p.c.Version}, relay: relay.New()}
	if t.http, err = p.toServers(); err != nil {
		return nil, err
	}
	if err := p.awaitVote(ctx, client, t.http); err != nil {
		return nil, err
	}
	root := p.c.EtcdPrefix + "-servers/"
	t.members = leader.NewMembers(client, root+"member/", t.self, p.log)
	t.election = leader.New(leader.Config{
		Client: client, Key: root + "leader", Self: t.self, Clock: soft.Base, Span: soft.Span, Look: look, Log: p.log,
	})
	asked, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := t.same(asked, root+"authority"); err != nil {
		return nil, err
	}
	if err := t.suit(asked); err != nil {
		return nil, err
	}
	lease, err := t.members.Enter(asked)
	if errors.Is(err, leader.ErrNameTaken) {
		return nil, fmt.Errorf("%w: choose another --node-name for this one", err)
	}
	if err != nil {
		return nil, fmt.Errorf("etcd at %s: %w", strings.Join(p.c.Etcd, ", "), err)
	}
	p.stack.start(ctx, "list of servers", func(ctx context.Context) error { return t.members.Run(ctx, lease) })
	if p.c.member() != nil {
		err = t.followMembers(ctx)
	}
	return t, err
}

// suit sees that this server's version and those of the others work together.
func (t *terms) suit(ctx context.Context) error {
	all, err := t.members.List(ctx)
	if err != nil {
		return fmt.Errorf("etcd at %s: %w", strings.Join(t.p.c.Etcd, ", "), err)
	}
	for _, s := range all {
		if err := skew.Servers(t.self.Version, s.Version); err != nil && s.ID != t.self.ID {
			return fmt.Errorf("server %s at %s: %w", s.Name, s.URL, err)
		}
	}
	return nil
}

// apiURL is where other servers reach this one's API.
func (p *platform) apiURL() (string, error) {
	host, port, err := net.SplitHostPort(reach(p.c.APIListen))
	if err != nil {
		return "", err
	}
	if p.c.reachable() && p.c.NodeIP != "" {
		host = p.c.NodeIP
	} else if all := localAddresses(p.c.APIListen); p.c.reachable() && len(all) > 0 {
		for _, ip := range all {
			if ip4 := ip.To4(); ip4 != nil && !ip4.IsLoopback() {
				host = ip4.String()
				break
			}
		}
	}
	return "https://" + net.JoinHostPort(host, port), nil
}

// lookTimeout bounds how long a machine's answer to a first packet is waited for. Its
// kernel gives it, however busy its processes are.
const lookTimeout = 500 * time.Millisecond

// look asks the machine of a server whether anything answers there. A server opens
// that door before it may lead, and closes it after.
func look(ctx context.Context, s leader.Server) leader.Sight {
	u, err := url.Parse(s.URL)
	if err != nil {
		return leader.Alive
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	var late net.Error
	switch {
	case err == nil:
		conn.Close()
	case errors.Is(err, syscall.ECONNREFUSED):
		return leader.Dead
	case errors.As(err, &late) && late.Timeout(), errors.Is(err, syscall.EHOSTUNREACH):
		return leader.Silent
	}
	return leader.Alive
}

// same sees that the stores are those of this server's cluster.
func (t *terms) same(ctx context.Context, key string) error {
	ours, err := leader.Claim(ctx, t.client, key, join.Digest(t.p.secrets.authority.Certificate.Raw))
	at := strings.Join(t.p.c.Etcd, ", ")
	switch {
	case err != nil:
		return fmt.Errorf("etcd at %s does not answer: %w", at, err)
	case !ours:
		return fmt.Errorf("what is in etcd at %s below %s is another cluster's: give --server-token as its servers have it (auth/server-token in their state directories), or another --etcd-prefix",
			at, t.p.c.EtcdPrefix)
	}
	return nil
}

func (p *platform) trusted() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.secrets.authority.Certificate)
	return pool
}

// toServers is a client of other servers, as a server.
func (p *platform) toServers() (*http.Client, error) {
	pair, err := p.c.control()
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: skew.Say(skew.Server, p.c.Version, join.Transport(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: p.trusted(), ServerName: join.ServerName, Certificates: []tls.Certificate{pair},
	}))}, nil
}

// registerSoon makes this machine a node as soon as there is a leader.
func (p *platform) registerSoon(ctx context.Context) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := p.register(ctx)
		if err == nil {
			return nil
		}
		p.log.Info("this server is no node yet", slog.Any("reason", err))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-p.stack.failed:
			return err
		case <-time.After(wait):
		}
	}
}

// lead is a term: the control plane runs until ctx is done.
func (t *terms) lead(ctx context.Context, term leader.Term) error {
	p, began := t.p, time.Now()
	st, calls := newStack(p.log), newStack(p.log)
	defer st.stop()
	// Calls that this term has begun are made to their end, and the next one,
	// here or elsewhere, does not wait for them.
	defer t.ending.Go(calls.stop)
	metrics := prometheus.NewRegistry()
	k := &control{c: &p.c, log: p.log, stack: st, metrics: metrics, secrets: &p.secrets, servers: t.servers}
	if t.p.c.member() != nil {
		k.members = t.memberDesk()
	}
	err := k.startStore(ctx, t.client, term)
	if err == nil {
		err = k.startDeciding(ctx, p.agents)
	}
	if err == nil {
		err = k.newQueue(t.natsURL, p.gateway)
	}
	if err == nil {
		err = k.newAPI(p, t.registry)
	}
	if err != nil {
		return err
	}
	st.start(ctx, "use of cpu", k.usage.Run)
	t.point(k, metrics)
	defer t.point(nil, nil)
	st.start(ctx, "functions' namespace", func(ctx context.Context) error { p.gateway.Prepare(ctx); return nil })
	st.start(ctx, "service kubernetes", func(ctx context.Context) error { return k.keepService(ctx, t.apiEndpoints) })
	calls.start(ctx, "asynchronous calls", k.queue.Run)
	st.start(ctx, "backlog", k.waiting.Run)
	p.log.Info("the control plane is up", slog.Duration("took", time.Since(began).Round(time.Millisecond)))
	select {
	case <-ctx.Done():
		return nil
	case err := <-st.failed:
		return err
	case err := <-calls.failed:
		return err
	}
}

// follow keeps the relay pointed at whoever leads, until ctx is done.
func (t *terms) follow(ctx context.Context) error {
	for {
		_, changed := t.election.Leader()
		t.look()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// copyEvery is how often a server that does not lead asks for new images.
const copyEvery = 2 * time.Second

// copyImages keeps this server's registry as the leader's, until ctx is done. An
// image of the leader's last seconds may be missing when it is lost.
func (t *terms) copyImages(ctx context.Context) error {
	var from *registry.Source
	for {
		t.mu.Lock()
		now := t.at.URL
		t.mu.Unlock()
		if now != "" {
			if at := now + access.ImagesRoot; from == nil || from.URL != at {
				from = &registry.Source{URL: at, Client: t.http}
			}
			if n, err := t.registry.Copy(ctx, from); err != nil && ctx.Err() == nil {
				t.p.log.Debug("images are not copied", slog.Any("error", err))
			} else if n > 0 {
				t.p.log.Debug("images copied", slog.Int("manifests", n))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(copyEvery):
		}
	}
}

// point says that this server's control plane serves, or does not any more (nil).
func (t *terms) point(k *control, metrics *prometheus.Registry) {
	t.mu.Lock()
	t.p.control.Store(k)
	t.metrics, t.at = metrics, leader.Server{}
	if k == nil {
		t.relay.Set(nil)
	} else {
		t.relay.Set(&relay.Seams{Objects: k.objects, Capacity: k.fleet, Tokens: k.accounts})
	}
	t.mu.Unlock()
	if k == nil {
		t.look()
	}
}

// look points the relay at another server that leads, if one does.
func (t *terms) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, _ := t.election.Leader()
	if t.p.control.Load() != nil || now == t.at {
		return
	}
	t.at, t.api, t.gateway = now, nil, nil
	if now.ID == "" || now.ID == t.self.ID {
		t.at = leader.Server{}
		t.relay.Set(nil)
		return
	}
	log := t.p.log.With(slog.String("leader", now.Name), slog.String("url", now.URL))
	var err error
	if t.api, err = toServer(now.URL, t.http, t.sayWho, t.p.log); err == nil {
		t.gateway, err = toServer(now.URL+access.GatewayRoot, t.http, nil, t.p.log)
	}
	if err != nil {
		log.Error("where the leader is reached cannot be read", slog.Any("error", err))
		t.relay.Set(nil)
		return
	}
	log.Info("another server leads")
	t.relay.Set(&relay.Seams{
		Objects:  remote.NewObjects(remote.Config{URL: now.URL, Client: t.http}),
		Capacity: remote.NewCapacity(remote.Config{URL: now.URL + access.CapacityRoot, Client: t.http}),
		Tokens:   remote.NewTokens(remote.Config{URL: now.URL, Client: t.http}),
	})
}

// sayWho tells the leader who has asked this server; of whom this server does not
// know the leader looks at the token itself.
func (t *terms) sayWho(in *http.Request, out http.Header) {
	u, _ := access.Authenticate(in, t.p.secrets.apiToken)
	access.HandOn(out, u)
}

// nobody serves what needs a leader when there is none.
var nobody = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	away(w, fmt.Sprintf("no server of the cluster has led for %v", relay.Hold))
})

// serveAPI is the API's door: this server's own, or the leader's.
func (t *terms) serveAPI(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" || r.URL.Path == "/livez" {
		_, _ = w.Write([]byte("ok"))
		return
	}
	t.waiting(func() http.Handler {
		if k := t.p.control.Load(); k != nil {
			return k.api
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.api
	}).ServeHTTP(w, r)
}

// manage is what serves what this server's gateway does not.
func (t *terms) manage() http.Handler {
	if t.p.control.Load() != nil {
		return nil
	}
	return t.waiting(func() http.Handler {
		if t.p.control.Load() != nil {
			return t.p.gateway.Handler()
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.gateway
	})
}

// waiting serves with what there is now, or else when there is a leader.
func (t *terms) waiting(now func() http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := now()
		if h == nil && t.relay.Wait(r.Context()) == nil {
			h = now()
		}
		if h == nil {
			h = nobody
		}
		h.ServeHTTP(w, r)
	})
}

// gather is the metrics of the process, and of the term.
func (t *terms) gather() prometheus.Gatherer {
	all := prometheus.Gatherers{t.p.metrics}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.metrics != nil {
		all = append(all, t.metrics)
	}
	return all
}

// servers are those that run; this one leads.
func (t *terms) servers(ctx context.Context) (join.Servers, error) {
	all, err := t.members.List(ctx)
	if err != nil {
		return join.Servers{}, err
	}
	out := join.Servers{Leader: t.self.Name}
	for _, s := range all {
		out.Servers = append(out.Servers, s.URL)
	}
	return out, nil
}
