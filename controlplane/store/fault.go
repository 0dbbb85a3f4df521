package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// errSilent is why a request's context ends when Config.Timeout is over.
var errSilent = errors.New("etcd did not answer in time")

func errStopped() error { return apierrors.NewServiceUnavailable("the store is stopped") }

// errDeposed is for what is written by one that may not write any more. unknown
// says whether an attempt before that may have been carried out.
func errDeposed(unknown bool) error {
	if unknown {
		return apierrors.NewServiceUnavailable("another server leads now, it is unknown whether this took place")
	}
	return apierrors.NewServiceUnavailable("another server leads now, nothing was written; please try again")
}

func codeOf(err error) codes.Code {
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Code()
	}
	return status.Code(err)
}

// unavailable says whether another attempt may help: etcd is away, has no
// leader, or is just changing it.
func unavailable(err error) bool { return codeOf(err) == codes.Unavailable }

// fault is what a client is told about an error of etcd, while doing something
// like "write pods x".
func (s *Store) fault(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsServiceUnavailable(err): // the store's own
		return err
	case unavailable(err):
		return apierrors.NewServiceUnavailable(fmt.Sprintf("%s: etcd is not available, it is unknown whether this took place: %v", doing, err))
	case errors.Is(context.Cause(ctx), errSilent):
		return apierrors.NewTimeoutError(fmt.Sprintf("%s: etcd did not answer within %v, it is unknown whether this took place", doing, s.c.Timeout), 1)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return apierrors.NewRequestEntityTooLargeError(doing + ": the object is larger than etcd stores")
	case errors.Is(err, rpctypes.ErrNoSpace):
		return apierrors.NewServiceUnavailable(doing + ": etcd's space quota is used up; delete objects and defragment it, or raise the quota")
	case codeOf(err) == codes.ResourceExhausted:
		return apierrors.NewTooManyRequests(fmt.Sprintf("%s: %v", doing, err), 1)
	default:
		return apierrors.NewInternalError(fmt.Errorf("%s: %w", doing, err))
	}
}
