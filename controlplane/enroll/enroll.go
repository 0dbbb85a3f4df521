// Package enroll takes machines into the cluster: it looks at tokens, makes
// Nodes and signs their certificates.
package enroll

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/internal/pause"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Authority signs.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// PEM is the authority's certificate.
func (a Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw})
}

// Client signs a certificate (PEM) by which a user of the API is known: name and groups
// are all that it says. It ends before the authority's own.
func (a Authority) Client(name string, groups []string, key crypto.PublicKey, life time.Duration) ([]byte, error) {
	if left := time.Until(a.Certificate.NotAfter); left < life {
		life = left
	}
	crt, err := a.sign(x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: groups}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}, key, life)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", name, err)
	}
	return crt, nil
}

// sign makes a certificate (PEM) for a key; whose it is and what for, t says.
func (a Authority) sign(t x509.Certificate, key crypto.PublicKey, life time.Duration) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t.SerialNumber, t.NotBefore, t.NotAfter, t.KeyUsage = serial, now.Add(-5*time.Minute), now.Add(life), x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, &t, a.Certificate, key, a.Key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Config says who signs, and what nodes are told. Objects and Authority have to
// be set.
type Config struct {
	Objects   api.Objects
	Authority Authority
	Settings  join.Settings // but for the node's own pod network
	Life      time.Duration // of a certificate; 0 is 90 days
	AtOnce    int           // machines that are taken in at a time; 0 is 16
	Log       *slog.Logger  // nil discards
}

// Desk takes machines in.
type Desk struct {
	c    Config
	turn chan struct{} // has an element for each machine that is being taken in
}

// New makes one.
func New(c Config) *Desk {
	if c.Life == 0 {
		c.Life = 90 * 24 * time.Hour
	}
	if c.AtOnce == 0 {
		c.AtOnce = 16
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Desk{c, make(chan struct{}, c.AtOnce)}
}

// maxRequest bounds what is read of a request, in bytes.
const maxRequest = 64 << 10

// turnWithin is how long a machine waits for its turn until it is told to come back:
// less than it waits for an answer.
const turnWithin = 15 * time.Second

// Join serves machines that have a token, some at a time, in the order in which they
// have come: when thousands come at once, all that are served at once are served too
// late. Anybody may ask.
func (d *Desk) Join(w http.ResponseWriter, r *http.Request) {
	d.serve(w, r, func(ctx context.Context, q join.Request) (join.Answer, error) {
		over := time.NewTimer(turnWithin)
		defer over.Stop()
		select {
		case d.turn <- struct{}{}:
		case <-over.C:
			return join.Answer{}, apierrors.NewTooManyRequests("too many machines join at once, please try again later", 1)
		case <-ctx.Done():
			return join.Answer{}, context.Cause(ctx)
		}
		defer func() { <-d.turn }()
		return d.join(ctx, q)
	})
}

// Renew serves nodes that want another certificate for the one that they have
// asked with.
func (d *Desk) Renew(w http.ResponseWriter, r *http.Request) {
	d.serve(w, r, func(ctx context.Context, q join.Request) (join.Answer, error) {
		name := access.Of(ctx).Node()
		if name == "" {
			return join.Answer{}, apierrors.NewBadRequest("only nodes have certificates that are renewed")
		}
		n, err := api.Get[*corev1.Node](ctx, d.c.Objects, api.Nodes, "", name)
		if err != nil {
			return join.Answer{}, err
		}
		return d.answer(n, q.CSR)
	})
}

func (d *Desk) serve(w http.ResponseWriter, r *http.Request, f func(context.Context, join.Request) (join.Answer, error)) {
	var q join.Request
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&q)
	var a join.Answer
	switch {
	case r.Method != http.MethodPost:
		err = apierrors.NewMethodNotSupported(api.Nodes.GR(), r.Method)
	case err != nil:
		err = apierrors.NewBadRequest("the body must be a request as JSON: " + err.Error())
	default:
		a, err = f(r.Context(), q)
	}
	if err != nil {
		d.c.Log.Info("a machine was not taken in", slog.String("node", q.Node), slog.String("from", r.RemoteAddr), slog.Any("reason", err))
	}
	join.Reply(w, a, err)
}

func (d *Desk) join(ctx context.Context, q join.Request) (join.Answer, error) {
	token, err := d.token(ctx, q.Token)
	if err != nil {
		return join.Answer{}, err
	}
	if msgs := validation.IsDNS1123Subdomain(q.Node); len(msgs) > 0 {
		return join.Answer{}, apierrors.NewBadRequest(fmt.Sprintf("node name %q: %s; choose another with --node-name", q.Node, strings.Join(msgs, ", ")))
	}
	if _, err := publicKey(q.CSR); err != nil {
		return join.Answer{}, err
	}
	// The machine that is here under this name must be gone.
	old, err := api.Get[*corev1.Node](ctx, d.c.Objects, api.Nodes, "", q.Node)
	if err == nil && lives(old) {
		return join.Answer{}, apierrors.NewConflict(api.Nodes.GR(), q.Node, errors.New("a node of this name is in the cluster and ready; choose another name with --node-name, or remove the node"))
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return join.Answer{}, err
	}
	// A token for one machine is used by whoever takes it away.
	if string(token.Data[join.KeyReusable]) != "true" {
		if _, err := d.c.Objects.Delete(ctx, api.Secrets, token.Namespace, token.Name, api.DeleteOptions{UID: token.UID}); err != nil {
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return join.Answer{}, unauthorized()
			}
			return join.Answer{}, err
		}
	}
	if old != nil { // its certificate is worth nothing from now on
		if _, err := d.c.Objects.Delete(ctx, api.Nodes, "", old.Name, api.DeleteOptions{UID: old.UID}); err != nil && !apierrors.IsNotFound(err) {
			return join.Answer{}, err
		}
	}
	var cidrs []string
	if old != nil {
		cidrs = old.Spec.PodCIDRs
	}
	n, err := d.register(ctx, q.Node, cidrs)
	if err != nil {
		return join.Answer{}, err
	}
	d.c.Log.Info("a node joins", slog.String("node", n.Name), slog.Any("pods", n.Spec.PodCIDRs))
	return d.answer(n, q.CSR)
}

// Waits between two attempts to register.
const (
	firstWait = 50 * time.Millisecond
	lastWait  = 2 * time.Second
)

// register is Register for a machine whose token is used up: when the store does not
// answer in time it is asked again, for as long as the machine waits.
func (d *Desk) register(ctx context.Context, name string, podCIDRs []string) (*corev1.Node, error) {
	vague := false // whether an attempt took place is unknown
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		n, err := Register(ctx, d.c.Objects, name, podCIDRs)
		switch {
		case apierrors.IsTimeout(err), apierrors.IsServiceUnavailable(err):
			vague = true
		case vague && apierrors.IsAlreadyExists(err): // it took place late
		default:
			return n, err
		}
		if !pause.For(ctx, wait/2+mathrand.N(wait)) {
			return nil, err
		}
	}
}

// lives tells whether a node is ready.
func lives(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Register makes what a node needs to be there before it comes: its Node, with a
// block of the pod network of each family (the given ones, or free ones), and its
// Lease.
// Those that are there stay.
func Register(ctx context.Context, o api.Objects, name string, podCIDRs []string) (*corev1.Node, error) {
	podCIDR := ""
	if len(podCIDRs) > 0 {
		podCIDR = podCIDRs[0]
	}
	n, err := api.Get[*corev1.Node](ctx, o, api.Nodes, "", name)
	if apierrors.IsNotFound(err) {
		n, err = api.Create(ctx, o, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
			Spec:       corev1.NodeSpec{PodCIDR: podCIDR, PodCIDRs: podCIDRs},
		})
	}
	if err == nil && n.Spec.PodCIDR == "" { // of a time when nobody gave it one
		next := n.DeepCopy()
		next.Spec.PodCIDR, next.Spec.PodCIDRs = podCIDR, podCIDRs
		n, err = api.Update(ctx, o, next, api.UpdateOptions{})
	}
	if err != nil {
		return nil, err
	}
	if _, err := o.Get(ctx, api.Namespaces, "", api.SystemNamespace); apierrors.IsNotFound(err) { // at the very first start
		_, err = o.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: api.SystemNamespace}})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, err
		}
	}
	now := metav1.NowMicro()
	if _, err := o.Get(ctx, api.Leases, api.SystemNamespace, name); apierrors.IsNotFound(err) {
		_, err = o.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &now},
		})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	return n, nil
}

// unauthorized says the same whatever is wrong with a token.
func unauthorized() error {
	return apierrors.NewUnauthorized("the token is not known: it was used, has expired or was deleted; make another with `faas token create` on a server")
}

// token finds the Secret of a token that counts.
func (d *Desk) token(ctx context.Context, text string) (*corev1.Secret, error) {
	id, secret, ok := strings.Cut(text, ".")
	if !ok || len(validation.IsDNS1123Label(id)) > 0 {
		return nil, unauthorized()
	}
	s, err := api.Get[*corev1.Secret](ctx, d.c.Objects, api.Secrets, api.SystemNamespace, join.SecretPrefix+id)
	if apierrors.IsNotFound(err) {
		return nil, unauthorized()
	}
	if err != nil {
		return nil, err
	}
	until, err := time.Parse(time.RFC3339, string(s.Data[join.KeyExpires]))
	same := subtle.ConstantTimeCompare([]byte(join.Token{Secret: secret}.Hash()), s.Data[join.KeyHash]) == 1
	if err != nil || !same || string(s.Type) != join.SecretType || time.Now().After(until) || s.DeletionTimestamp != nil {
		return nil, unauthorized()
	}
	return s, nil
}

func publicKey(csr []byte) (any, error) {
	block, _ := pem.Decode(csr)
	if block == nil {
		return nil, apierrors.NewBadRequest("csr: it must be a certificate request in PEM form")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return nil, apierrors.NewBadRequest("csr: " + err.Error())
	}
	return req.PublicKey, nil
}

// answer signs a node's key.
func (d *Desk) answer(n *corev1.Node, csr []byte) (join.Answer, error) {
	key, err := publicKey(csr)
	if err != nil {
		return join.Answer{}, err
	}
	crt, err := d.c.Authority.sign(x509.Certificate{
		Subject:  pkix.Name{CommonName: access.NodeUser(n.Name), Organization: []string{access.Nodes}, SerialNumber: string(n.UID)},
		DNSNames: []string{join.NodeName(n.Name)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, key, d.c.Life)
	if err != nil {
		return join.Answer{}, err
	}
	s := d.c.Settings
	s.PodCIDR = strings.Join(n.Spec.PodCIDRs, ",")
	return join.Answer{Certificate: crt, CA: d.c.Authority.PEM(), Settings: s}, nil
}
