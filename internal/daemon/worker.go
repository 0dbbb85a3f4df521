package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/gateway/auth"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/internal/skew"
	"github.com/podsnap/podsnap/nodeagent/engine"
)

// startWorker brings up a node of another server's cluster: what runs pods, and
// a gateway for invocations. All it knows of the cluster comes from the server.
func (p *platform) startWorker(ctx context.Context) (err error) {
	ls, err := p.listen(ctx, map[string]string{"listen": p.c.Listen, "metrics-listen": p.c.MetricsListen, "agent-listen": p.c.AgentListen})
	if err != nil {
		return err
	}
	defer ls.closeUnless(&err)
	me, err := p.joinCluster(ctx)
	if err != nil {
		return err
	}
	p.stack.start(ctx, "certificate", me.keep)
	p.stack.start(ctx, "list of servers", me.doors.follow)
	kid, socket, err := newContainerdChild(&p.c) //nolint:contextcheck // the process ends by its supervisor
	if err != nil {
		return err
	}
	if p.c.Containerd == "" {
		p.c.Containerd = socket
		p.stack.start(ctx, kid.name, kid.run)
		if err := kid.wait(ctx); err != nil {
			return err
		}
	}
	objects := mirror.Share(remote.NewObjects(remote.Config{URL: me.url, Client: me.client}), p.log, sharedByNode...)
	p.stack.start(ctx, "shared watches", objects.Run)
	p.objects = objects
	p.tokens = remote.NewTokens(remote.Config{URL: me.url, Client: me.client})
	port, err := portOf(ls["agent-listen"])
	if err != nil {
		return err
	}
	host := strings.TrimPrefix(me.url, "https://")
	if err := p.startNode(ctx, nodeConfig{
		registries: engine.Registries{Embedded: &engine.Registry{Host: host, Path: access.ImagesRoot + "/v2", Client: me.client}},
		ip:         p.c.NodeIP, port: port,
	}); err != nil {
		return err
	}
	if err := p.startEdge(ctx, me); err != nil {
		return err
	}
	p.serveWorker(ctx, ls, me)
	return nil
}

// sharedByNode are what several parts of a node follow: the ways to other nodes, network
// policies, Services, names and Ingresses.
var sharedByNode = []*api.Resource{api.Nodes, api.Services, api.EndpointSlices}

func portOf(l net.Listener) (int32, error) {
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(port, 10, 32)
	return int32(n), err
}

// startEdge runs the gateway of a node: it serves invocations, and hands what
// manages functions to the server.
func (p *platform) startEdge(ctx context.Context, me *identity) error {
	manage, err := toServer(me.url+access.GatewayRoot, me.client, nil, p.log)
	if err != nil {
		return err
	}
	g, err := gateway.New(gateway.Config{
		Objects:  p.objects,
		Capacity: remote.NewCapacity(remote.Config{URL: me.url + access.CapacityRoot, Client: me.client}),
		Agents: func(_ context.Context, node string) (api.Agent, error) {
			if a := p.agent.Load(); node == p.c.NodeName && a != nil {
				return a, nil
			}
			return remote.NewAgent(remote.Config{URL: me.url + access.AgentsRoot + "/" + node, Client: me.client}), nil
		},
		Name: p.c.NodeName, Manage: func() http.Handler { return manage },
		Auth:    auth.Config{Disabled: true}, // the server's gateway asks for the password
		Version: openfaas.Version{Release: p.c.Version, SHA: p.c.Revision},
		Timeout: p.c.Timeout, MaxBody: p.c.MaxBody, MaxConns: p.c.MaxConns, MaxConnsAddress: p.c.MaxConnsAddress,
		Called: p.called, Leave: p.leave, Log: p.log, Metrics: p.metrics,
	})
	if err != nil {
		return err
	}
	p.gateway = g
	p.stack.start(ctx, "gateway", g.Run)
	return nil
}

// serveWorker opens a node's doors. The agent's is for servers alone.
func (p *platform) serveWorker(ctx context.Context, ls listeners, me *identity) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(me.ca)
	p.adopted(ctx)
	p.serveAgent(ctx, ls["agent-listen"], pool, func() *tls.Certificate { return me.pair.Load() })
	p.serveOne(ctx, "metrics listener", ls["metrics-listen"], &http.Server{Handler: metricsHandler(p.gather), ReadHeaderTimeout: 5 * time.Second})
	p.serveInside(ctx)
	p.serveGateway(ctx, ls)
}

// serveAgent opens a node's agent to servers.
func (p *platform) serveAgent(ctx context.Context, l net.Listener, trusted *x509.CertPool, pair func() *tls.Certificate) {
	door := remote.ServeAgent(p.agent.Load())
	masters := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, ok := access.Certified(r); !ok || !slices.Contains(u.Groups, access.Masters) {
			http.Error(w, "only the cluster's servers may ask a node's agent", http.StatusForbidden)
			return
		}
		door.ServeHTTP(w, r)
	})
	p.serveOne(ctx, "agent listener", l, &http.Server{
		Handler: versioned(masters, skew.Node, p.c.Version, skew.ToNode), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair(), nil },
		},
	})
}

// addressTowards is the address from which this machine reaches a server.
func addressTowards(ctx context.Context, server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", u.Host)
	if err != nil {
		return "", fmt.Errorf("find this node's address (or set it with --node-ip): %w", err)
	}
	defer conn.Close()
	a, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return a.Addr().Unmap().String(), err
}

// serverURL reads what a person gives as the server to join.
func serverURL(s string) (string, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("server URL %q: %w", s, err)
	case u.Scheme != "https":
		return "", fmt.Errorf("server URL %q: it must begin with https://", s)
	case u.Hostname() == "":
		return "", fmt.Errorf("server URL %q: it names no host", s)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil:
		return "", fmt.Errorf("server URL %q: it must be https://host:port alone", s)
	case u.Port() == "":
		u.Host = net.JoinHostPort(u.Hostname(), "6443")
	}
	return "https://" + u.Host, nil
}

// errNotJoined is for a node that nobody took in.
var errNotJoined = errors.New("this machine is no node yet and has no token: make one on a server with `faas token create`, and give it with --token")
