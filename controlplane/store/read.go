package store

import (
	"context"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/internal/pause"
	"go.etcd.io/etcd/api/v3/mvccpb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Get implements api.Objects. It sees what this process wrote; see the package
// comment for what others did.
func (s *Store) Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	c, err := s.cache(r)
	if err != nil {
		return nil, err
	}
	obj, ok := c.Get(namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(r.GR(), name)
	}
	return r.As(obj), nil
}

// List implements api.Objects.
func (s *Store) List(ctx context.Context, r *api.Resource, o api.ListOptions) (api.List, error) {
	if err := s.open(ctx); err != nil {
		return api.List{}, err
	}
	c, err := s.cache(r)
	if err != nil {
		return api.List{}, err
	}
	return c.ListAs(r, o)
}

// Watch implements api.Objects. A revision that another process has given out
// and that is not here yet is waited for.
func (s *Store) Watch(ctx context.Context, r *api.Resource, o api.WatchOptions) (api.Watch, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if rev, err := strconv.ParseInt(o.ResourceVersion, 10, 64); err == nil && rev > s.rev.Load() {
		bounded, cancel := context.WithTimeout(ctx, s.c.Timeout)
		s.catchUp(bounded, rev) // the cache says what is wrong if it does not come
		cancel()
	}
	c, err := s.cache(r)
	if err != nil {
		return nil, err
	}
	return c.WatchAs(ctx, r, o)
}

// open returns when the store can work.
func (s *Store) open(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case <-s.ended:
		return errStopped()
	default:
	}
	select {
	case <-s.ready:
		return nil
	default:
	}
	t := time.NewTimer(s.c.Timeout)
	defer t.Stop()
	select {
	case <-s.ready:
		return nil
	case <-s.ended:
		return errStopped()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return apierrors.NewServiceUnavailable("the store is not loaded yet: etcd does not answer")
	}
}

// fetch reads an object from etcd itself, linearizably.
func (s *Store) fetch(ctx context.Context, i id) (api.Object, error) {
	key := i.key(s.c.Prefix)
	if key == "" {
		return nil, apierrors.NewNotFound(i.r.GR(), i.name)
	}
	for wait := firstWait; ; wait = min(wait*2, lastWait) {
		resp, err := s.etcd.Get(ctx, key)
		switch {
		case err == nil && len(resp.Kvs) == 0:
			if err := s.show(ctx, resp.Header.Revision); err != nil {
				return nil, err
			}
			return nil, apierrors.NewNotFound(i.r.GR(), i.name)
		case err == nil:
			return s.decode(i, resp.Kvs[0])
		case !unavailable(err) || !pause.For(ctx, wait):
			return nil, s.fault(ctx, "read "+i.r.String()+" "+i.name, err)
		}
	}
}

func (s *Store) decode(i id, kv *mvccpb.KeyValue) (api.Object, error) {
	obj, err := rules.Restore(i.r, kv.Value)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if c, ok := obj.(*api.CustomObject); ok {
		obj = s.custom.asStored(c)
	}
	obj.SetResourceVersion(strconv.FormatInt(kv.ModRevision, 10))
	return obj, nil
}
