package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/pause"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Pods reach the API by the Service kubernetes in the namespace default, as clients
// in pods expect it: at the first address of the Service network, and by name.
const (
	apiServiceName = "kubernetes"
	apiServicePort = 443
)

// apiService is that address; zero without a network.
func apiService(services netip.Prefix) netip.AddrPort {
	if !services.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(services.Masked().Addr().Next(), apiServicePort)
}

// apiNames are the names and the address that pods know the API by.
func (c *Config) apiNames() []string {
	out := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	if n, err := parseNetworks(c.ServiceCIDR); err == nil && n.four.IsValid() {
		out = append(out, apiService(n.four).Addr().String())
	}
	return out
}

// apiInside is where this machine's pods reach an API that listens for this machine
// alone: the address at which they have the gateway too. Functions do not.
func (p *platform) apiInside() (netip.AddrPort, error) {
	_, port, err := net.SplitHostPort(p.c.APIListen)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(p.node.network.Gateway(), uint16(n)), err
}

// serveAPIInside opens the API to pods of this machine where it has no door that
// they reach.
func (p *platform) serveAPIInside(ctx context.Context, h http.Handler) {
	if p.c.reachable() {
		return
	}
	at, err := p.apiInside()
	if err == nil {
		var l net.Listener
		if l, err = p.sockets.Listen(ctx, "api-inside", at.String()); err == nil {
			p.serveAPI(ctx, l, h)
			return
		}
	}
	p.log.Warn("pods do not reach the API", slog.Any("error", err))
}

// apiEndpoints is where pods reach this server, the only one.
func (p *platform) apiEndpoints(context.Context) ([]netip.AddrPort, error) {
	own, err := p.apiURL()
	if err != nil {
		return nil, err
	}
	return p.reachedAt([]string{own}, own)
}

// apiEndpoints is where pods reach the servers.
func (t *terms) apiEndpoints(ctx context.Context) ([]netip.AddrPort, error) {
	all, err := t.servers(ctx)
	if err != nil {
		return nil, err
	}
	return t.p.reachedAt(all.Servers, t.self.URL)
}

// reachedAt are the addresses of servers, of which one is own. Another one that
// listens for its own machine alone is left out.
func (p *platform) reachedAt(urls []string, own string) (out []netip.AddrPort, err error) {
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			continue
		}
		at, err := netip.ParseAddrPort(u.Host)
		switch {
		case err != nil:
			continue // by a name, which is none of an endpoint
		case !at.Addr().IsLoopback():
			out = append(out, at)
		case s == own && p.agent.Load() == nil:
			return nil, apierrors.NewServiceUnavailable("this server's node is not there yet")
		case s == own:
			inside, err := p.apiInside()
			if err != nil {
				return nil, err
			}
			out = append(out, inside)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out), nil
}

// serviceEvery is how often the servers of a cluster are looked at for the Service.
const serviceEvery = time.Minute

// keepService keeps the Service kubernetes in line with the servers, until ctx is
// done; nil then. Of a server that is the only one nothing changes.
func (k *control) keepService(ctx context.Context, servers func(context.Context) ([]netip.AddrPort, error)) error {
	again := 50 * time.Millisecond
	for {
		at, err := servers(ctx)
		if err == nil {
			err = k.putService(ctx, at)
		}
		wait := serviceEvery
		switch {
		case apierrors.IsInvalid(err): // somebody else's address: that does not change soon
			k.log.Warn("pods find no Service kubernetes", slog.Any("error", err))
			err = nil
		case err != nil:
			again = min(2*again, serviceEvery)
			wait = again
			k.log.Debug("the Service kubernetes is not up to date", slog.Any("error", err))
		}
		if err == nil && k.servers == nil {
			<-ctx.Done()
			return nil
		}
		if !pause.For(ctx, wait) {
			return nil
		}
	}
}

// putService makes the Service and its endpoints what they have to be.
func (k *control) putService(ctx context.Context, at []netip.AddrPort) error {
	if len(at) == 0 {
		return nil
	}
	services, err := parseNetworks(k.c.ServiceCIDR)
	if err != nil {
		return err
	}
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: apiServiceName, Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}}
	single := corev1.IPFamilyPolicySingleStack
	_, err = k.objects.Create(ctx, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		ClusterIP: apiService(services.four).Addr().String(), IPFamilyPolicy: &single, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		Ports: []corev1.ServicePort{{Name: "https", Port: apiServicePort, TargetPort: intstr.FromInt32(int32(at[0].Port())), Protocol: corev1.ProtocolTCP}},
	}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	ports := map[uint16][]string{}
	for _, a := range at {
		ports[a.Port()] = append(ports[a.Port()], a.Addr().String())
	}
	e := &corev1.Endpoints{ObjectMeta: meta}
	for _, a := range at {
		if ips := ports[a.Port()]; ips[0] == a.Addr().String() {
			s := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "https", Port: int32(a.Port()), Protocol: corev1.ProtocolTCP}}}
			for _, ip := range ips {
				s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: ip})
			}
			e.Subsets = append(e.Subsets, s)
		}
	}
	err = api.Ensure(ctx, k.objects, e, func(now *corev1.Endpoints) bool {
		same := equality.Semantic.DeepEqual(now.Subsets, e.Subsets)
		now.Subsets = e.Subsets
		return !same
	})
	if err != nil {
		return err
	}
	return k.putSlice(ctx, meta, at)
}

// putSlice is for the nodes: they lead to what slices say. Servers with a port of
// their own each are told by the first one's.
func (k *control) putSlice(ctx context.Context, meta metav1.ObjectMeta, at []netip.AddrPort) error {
	meta.Labels = map[string]string{discoveryv1.LabelServiceName: apiServiceName}
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{
		Name: new("https"), Port: new(int32(at[0].Port())), Protocol: new(corev1.ProtocolTCP),
	}}}
	for _, a := range at {
		if a.Addr().Is4() && a.Port() == at[0].Port() {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}})
		}
	}
	return api.Ensure(ctx, k.objects, s, func(now *discoveryv1.EndpointSlice) bool {
		same := equality.Semantic.DeepEqual(now.Endpoints, s.Endpoints) && equality.Semantic.DeepEqual(now.Ports, s.Ports)
		now.Endpoints, now.Ports = s.Endpoints, s.Ports
		return !same
	})
}
