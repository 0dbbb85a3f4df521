package ingress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// keys are the certificates of Ingresses. They are immutable.
type keys struct {
	hosts    map[string]*tls.Certificate // "*.example.com" too
	fallback *tls.Certificate            // of the first Ingress that names no host for it; nil: none
}

// Certificate finds the certificate for what a client asks for, by its server
// name (SNI). It is for tls.Config.GetCertificate.
func (r *Router) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	k := r.keys.Load()
	host := canonical(hello.ServerName)
	for _, name := range []string{host, wildcard(host)} {
		if c := k.hosts[name]; c != nil {
			return c, nil
		}
	}
	if k.fallback != nil {
		return k.fallback, nil
	}
	return nil, fmt.Errorf("no Ingress has a certificate for %q", hello.ServerName)
}

// certificates reads those that ingresses name. One that can't be used is told
// and left out.
func (r *Router) certificates(ingresses []*networkingv1.Ingress) *keys {
	k := &keys{hosts: map[string]*tls.Certificate{}}
	if !r.c.Secrets {
		return k
	}
	for _, i := range slices.SortedFunc(slices.Values(ingresses), older) {
		for _, t := range i.Spec.TLS {
			if t.SecretName == "" {
				continue
			}
			c, err := r.certificate(i.Namespace, t.SecretName)
			if err != nil {
				r.c.Log.Info("an Ingress's certificate can't be used", slog.String("ingress", i.Namespace+"/"+i.Name), slog.String("secret", t.SecretName), slog.Any("reason", err))
				continue
			}
			hosts := map[string]*tls.Certificate{}
			for _, h := range t.Hosts {
				hosts[canonical(h)] = c
			}
			if len(t.Hosts) == 0 {
				for _, h := range c.Leaf.DNSNames {
					hosts[canonical(h)] = c
				}
				if k.fallback == nil {
					k.fallback = c
				}
			}
			maps.Copy(hosts, k.hosts) // older Ingresses' stay
			k.hosts = hosts
		}
	}
	return k
}

func (r *Router) certificate(namespace, secret string) (*tls.Certificate, error) {
	s, ok := r.secrets.Get(namespace, secret)
	if !ok {
		return nil, errors.New("there is no such Secret of the type " + string(corev1.SecretTypeTLS))
	}
	c, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	return &c, err
}
