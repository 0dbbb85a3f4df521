// Package certificate signs what was approved of the CertificateSigningRequests of the
// API's own clients, and deletes all that nobody needs any more.
package certificate

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Config says what the controller works with.
type Config struct {
	Objects api.Objects
	View    *view.View
	// Sign makes a client's certificate (PEM); nil signs nothing.
	Sign    func(name string, groups []string, key crypto.PublicKey, life time.Duration) ([]byte, error)
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller works by request.
type Controller struct {
	c    Config
	loop *loop.Loop[string]
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c}
	r.loop = loop.New(loop.Config{Name: "certificate", Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.CertificateRequests.OnChange(func(t api.EventType, _, now *certificatesv1.CertificateSigningRequest) {
		if t != api.Deleted {
			r.loop.Add(now.Name)
		}
	})
	return r
}

// Run works until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	q, ok := r.c.View.CertificateRequests.Get("", name)
	if !ok || q.DeletionTimestamp != nil {
		return 0, nil
	}
	if r.c.Sign != nil && toSign(q) {
		if err := r.sign(ctx, q); err != nil {
			return 0, fmt.Errorf("sign the request %s: %w", name, err)
		}
		return 0, nil // what was written comes back
	}
	now := time.Now()
	end := until(q)
	if now.Before(end) {
		return end.Sub(now), nil
	}
	_, err := r.c.Objects.Delete(ctx, api.CertificateSigningRequests, "", name, api.DeleteOptions{UID: q.UID, ResourceVersion: q.ResourceVersion})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // of what has changed we are told
		return 0, fmt.Errorf("delete the request %s: %w", name, err)
	}
	return 0, nil
}

// sign writes the certificate, or why there will be none.
func (r *Controller) sign(ctx context.Context, q *certificatesv1.CertificateSigningRequest) error {
	pem, refusal, err := r.certificate(q)
	if err != nil {
		return err
	}
	_, err = api.Mutate(ctx, r.c.Objects, api.CertificateSigningRequests, "", q.Name, api.UpdateOptions{Subresource: "status"}, func(o *certificatesv1.CertificateSigningRequest) (bool, error) {
		if o.UID != q.UID || !toSign(o) {
			return false, nil
		}
		if refusal != nil {
			now := metav1.Now()
			o.Status.Conditions = append(o.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
				Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: refusal.Error(),
				LastUpdateTime: now, LastTransitionTime: now,
			})
			return true, nil
		}
		o.Status.Certificate = pem
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	r.c.Log.InfoContext(ctx, "a request for a certificate was answered", slog.String("request", q.Name), slog.String("of", q.Spec.Username), slog.Any("refusal", refusal))
	return nil
}

func (r *Controller) certificate(q *certificatesv1.CertificateSigningRequest) (pem []byte, refusal, err error) {
	asked, err := api.ReadRequest(&q.Spec)
	if err != nil {
		return nil, fmt.Errorf("spec.request %w", err), nil
	}
	if err := acceptable(asked, q.Spec.Usages); err != nil {
		return nil, err, nil
	}
	pem, err = r.c.Sign(asked.Subject.CommonName, asked.Subject.Organization, asked.PublicKey, life(q))
	return pem, nil, err
}
