package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/builder/registry"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/enroll"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/internal/skew"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// neighbours are the agents of other nodes.
type neighbours struct {
	objects api.Objects
	release string // of this server
	tls     *tls.Config

	mu    sync.Mutex
	known map[string]neighbour // by node
}

type neighbour struct {
	address string
	agent   *remote.Agent
	client  *http.Client
}

// agent answers with a node's agent. It keeps a connection to each.
func (n *neighbours) agent(ctx context.Context, node string) (api.Agent, error) {
	obj, err := api.Get[*corev1.Node](ctx, n.objects, api.Nodes, "", node)
	if err != nil {
		n.forget(node)
		return nil, err
	}
	address := agentAddress(obj)
	if address == "" {
		return nil, apierrors.NewServiceUnavailable("node " + node + " has not said where its agent answers")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if k, ok := n.known[node]; ok {
		if k.address == address {
			return k.agent, nil
		}
		k.client.CloseIdleConnections()
	}
	c := n.tls.Clone()
	c.ServerName = join.NodeName(node)
	k := neighbour{address: address, client: &http.Client{Transport: skew.Say(skew.Server, n.release, join.Transport(c))}}
	k.agent = remote.NewAgent(remote.Config{URL: "https://" + address, Client: k.client})
	n.known[node] = k
	return k.agent, nil
}

func (n *neighbours) forget(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if k, ok := n.known[node]; ok {
		k.client.CloseIdleConnections()
		delete(n.known, node)
	}
}

// agentAddress is where a node's agent answers; "" when the node does not say.
func agentAddress(n *corev1.Node) string {
	port := n.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		return ""
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return net.JoinHostPort(a.Address, strconv.Itoa(int(port)))
		}
	}
	return ""
}

// agents finds the agent of a node.
func (p *platform) agents(ctx context.Context, node string) (api.Agent, error) {
	if node != p.c.NodeName {
		return p.neighbours.agent(ctx, node)
	}
	if a := p.agent.Load(); a != nil {
		return a, nil
	}
	return nil, apierrors.NewNotFound(api.Nodes.GR(), node)
}

// newNeighbours is called when the authority is there.
func (p *platform) newNeighbours() error {
	pair, err := p.c.control()
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(p.secrets.authority.Certificate)
	p.neighbours = &neighbours{
		objects: p.objects, release: p.c.Version, known: map[string]neighbour{},
		tls: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}
	return nil
}

// forNodes are the handlers of the API's door that nodes need beside the API.
func (p *platform) forNodes(k *control, reg *registry.Registry) (beside, open map[string]http.Handler) {
	desk := enroll.New(enroll.Config{
		Objects: k.objects, Authority: p.secrets.authority, Log: p.log,
		Settings: join.Settings{ClusterCIDR: p.c.ClusterCIDR, ServiceCIDR: p.c.ServiceCIDR},
	})
	capacity := http.StripPrefix(access.CapacityRoot, remote.ServeCapacity(k.fleet))
	return map[string]http.Handler{
		access.CapacityRoot + "/capacity/":     capacity,
		access.CapacityRoot + "/decisions/":    capacity,
		access.GatewayRoot + "/":               http.StripPrefix(access.GatewayRoot, p.gateway.Handler()),
		access.ImagesRoot + "/":                http.StripPrefix(access.ImagesRoot, trusted(reg)),
		access.ImagesRoot + registry.IndexPath: http.HandlerFunc(reg.ServeIndex),
		access.AgentsRoot + "/":                http.StripPrefix(access.AgentsRoot, http.HandlerFunc(p.toAgent)),
		access.RenewPath:                       http.HandlerFunc(desk.Renew),
		access.ServersPath:                     http.HandlerFunc(k.tellServers),
		join.MembersPath:                       k.changeMembers(),
		join.MembersPath + "/":                 k.changeMembers(),
	}, map[string]http.Handler{access.JoinPath: http.HandlerFunc(desk.Join)}
}

// tellServers serves join.Servers.
func (k *control) tellServers(w http.ResponseWriter, r *http.Request) {
	var out join.Servers
	if k.servers != nil {
		var err error
		if out, err = k.servers(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // who has gone can't be told
}

type trustedKey struct{}

// trusted serves the registry to who was let in already.
func trusted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), trustedKey{}, true)))
	})
}

// toAgent serves /<node>/…, that node's agent.
func (p *platform) toAgent(w http.ResponseWriter, r *http.Request) {
	node, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	a, err := p.agents(r.Context(), node)
	if err != nil {
		code := http.StatusServiceUnavailable
		var known apierrors.APIStatus
		if errors.As(err, &known) {
			code = int(known.Status().Code)
		}
		http.Error(w, err.Error(), code)
		return
	}
	http.StripPrefix("/"+node, remote.ServeAgent(a)).ServeHTTP(w, r)
}

// localAddresses are those at which other machines may reach a listener.
func localAddresses(listen string) []net.IP {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
		return []net.IP{net.IP(ip.AsSlice())}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []net.IP
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			out = append(out, n.IP)
		}
	}
	return out
}

// ownOf is the first of addresses that this machine has; "" when it has none.
func ownOf(addresses []string) string {
	mine := localAddresses("0.0.0.0:0")
	for _, a := range addresses {
		if ip := net.ParseIP(a); ip != nil && slices.ContainsFunc(mine, ip.Equal) {
			return a
		}
	}
	return ""
}
