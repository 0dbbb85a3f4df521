package engine

import (
	"context"
	"fmt"
	"time"

	ctrimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"

	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

const (
	viewLabel  = "podsnap.dev/view" // of a snapshot: the chain of layers that it shows
	viewPrefix = "view-"
)

// Rootfs answers with where the layers of an image of the node lie, for a
// runtime that mounts them itself. They stay there as long as the image is on
// the node, and after that until SweepViews.
func (e *Engine) Rootfs(ctx context.Context, ref string) (spec.Rootfs, error) {
	ctx = e.ns(ctx)
	img, err := e.localImage(ctx, ref)
	if err != nil {
		return spec.Rootfs{}, err
	}
	img.view.Lock()
	defer img.view.Unlock()
	if img.lower == nil {
		key := viewPrefix + img.chainID
		mounts, err := e.snapshots.View(ctx, key, img.chainID, snapshots.WithLabels(map[string]string{
			gcRoot: time.Now().UTC().Format(time.RFC3339), viewLabel: img.chainID,
		}))
		if errdefs.IsAlreadyExists(err) {
			mounts, err = e.snapshots.Mounts(ctx, key)
		}
		if err != nil {
			return spec.Rootfs{}, fmt.Errorf("view the layers of image %q: %w", ref, err)
		}
		if _, err := img.inspect(mounts); err != nil {
			return spec.Rootfs{}, &runtime.StartError{Reason: "CreateContainerConfigError", Err: err}
		}
		if img.lower, err = layersOf(mounts); err != nil {
			return spec.Rootfs{}, err
		}
	}
	return spec.Rootfs{Image: img.Image, Lower: img.lower, Accounts: img.accounts, Chain: img.chainID}, nil
}

// SweepViews gives layers free that neither an image of the node nor a
// container has: used are the chains of running containers.
func (e *Engine) SweepViews(ctx context.Context, used map[string]bool) error {
	ctx = e.ns(ctx)
	all, err := e.client.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	keep := map[string]bool{}
	for _, i := range all {
		chain, err := e.chain(ctx, i)
		if err != nil {
			return err // better too many than one too few
		}
		keep[chain] = true
	}
	var lost []string
	err = e.snapshots.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if chain := i.Labels[viewLabel]; !keep[chain] && !used[chain] {
			lost = append(lost, i.Name)
		}
		return nil
	}, "labels."+quote(viewLabel))
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range lost {
		if err := e.snapshots.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove snapshot %s: %w", name, err)
		}
	}
	return nil
}

func (e *Engine) chain(ctx context.Context, i ctrimages.Image) (string, error) {
	_, config, err := readImage(ctx, e.client.ContentStore(), i.Target)
	if errdefs.IsNotFound(err) {
		return "", nil // of another platform: nothing of it can run
	}
	if err != nil {
		return "", fmt.Errorf("image %s: %w", i.Name, err)
	}
	return identity.ChainID(config.RootFS.DiffIDs).String(), nil
}
