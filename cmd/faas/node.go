package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
)

func (o *options) nodeCmd() *cobra.Command {
	a := &admin{}
	cmd := &cobra.Command{
		Use: "node", Aliases: []string{"nodes"}, Short: "The machines of the cluster",
		Example: "  sudo faas node list\n  sudo faas node drain worker-2\n  sudo faas node remove worker-2",
	}
	a.flags(cmd)
	cmd.AddCommand(o.nodeList(a), o.nodeDrain(a), o.nodeUncordon(a), o.nodeRemove(a))
	return cmd
}

// nodeInfo is what is shown of a node.
type nodeInfo struct {
	Name    string    `json:"name"`
	Status  string    `json:"status"` // Ready, NotReady, Lost; and SchedulingDisabled
	Address string    `json:"address"`
	Pods    int       `json:"pods"`
	PodCIDR string    `json:"podCIDR"`
	Version string    `json:"version"`
	Since   time.Time `json:"since"`
}

func (o *options) nodeList(a *admin) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the nodes", Args: cobra.NoArgs,
		Example: "  sudo faas node list\n  sudo faas node list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			objects, ctx, cancel, err := a.begin(cmd, o.short)
			if err != nil {
				return err
			}
			defer cancel()
			nodes, err := api.Items[*corev1.Node](ctx, objects, api.Nodes, api.ListOptions{})
			if err != nil {
				return err
			}
			pods, err := api.Items[*corev1.Pod](ctx, objects, api.Pods, api.ListOptions{})
			if err != nil {
				return err
			}
			out := make([]nodeInfo, 0, len(nodes))
			for _, n := range nodes {
				i := nodeInfo{Name: n.Name, Status: nodeStatus(n), PodCIDR: n.Spec.PodCIDR, Version: n.Status.NodeInfo.KubeletVersion, Since: n.CreationTimestamp.Time}
				for _, addr := range n.Status.Addresses {
					if addr.Type == corev1.NodeInternalIP {
						i.Address = addr.Address
					}
				}
				for _, p := range pods {
					if p.Spec.NodeName == n.Name {
						i.Pods++
					}
				}
				out = append(out, i)
			}
			slices.SortFunc(out, func(a, b nodeInfo) int { return cmp.Compare(a.Name, b.Name) })
			return o.print(cmd.OutOrStdout(), out, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tSTATUS\tADDRESS\tPODS\tPOD NETWORK\tAGE\tVERSION")
				for _, i := range out {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", i.Name, i.Status, i.Address, i.Pods, i.PodCIDR, duration.HumanDuration(time.Since(i.Since)), i.Version)
				}
			})
		},
	}
}

func nodeStatus(n *corev1.Node) string {
	s := "NotReady"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			switch c.Status {
			case corev1.ConditionTrue:
				s = "Ready"
			case corev1.ConditionUnknown:
				s = "Lost"
			case corev1.ConditionFalse:
			}
		}
	}
	if n.Spec.Unschedulable {
		s += ",SchedulingDisabled"
	}
	return s
}

// cordon has nothing new placed on a node, or lets it again.
func cordon(ctx context.Context, objects api.Objects, name string, closed bool) error {
	_, err := api.Mutate(ctx, objects, api.Nodes, "", name, api.UpdateOptions{}, func(n *corev1.Node) (bool, error) {
		changed := n.Spec.Unschedulable != closed
		n.Spec.Unschedulable = closed
		return changed, nil
	})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no node %s; `faas node list` shows those that are", name)
	}
	return err
}

func (o *options) nodeDrain(a *admin) *cobra.Command {
	return &cobra.Command{
		Use: "drain NODE", Short: "Empty a node: nothing new is placed on it, and its pods go elsewhere", Args: cobra.ExactArgs(1),
		Long: `Nothing new is placed on the node, and each of its pods that something would
make anew is evicted: as its disruption budget allows, and with its grace period. It
returns when they are gone. The pods of DaemonSets stay, for they would come back;
pods that nothing would make anew are named, and stay.`,
		Example: "  sudo faas node drain worker-2\n  sudo faas node uncordon worker-2     # take it into use again",
		RunE: func(cmd *cobra.Command, args []string) error {
			objects, ctx, cancel, err := a.begin(cmd, o.long)
			if err != nil {
				return err
			}
			defer cancel()
			return drain(ctx, cmd, objects, args[0])
		},
	}
}

// drain empties a node.
func drain(ctx context.Context, cmd *cobra.Command, objects *remote.Objects, name string) error {
	if err := cordon(ctx, objects, name, true); err != nil {
		return err
	}
	say(cmd, "nothing new is placed on %s", name)
	asked, stay, waits := map[string]bool{}, []string{}, map[string]bool{}
	for last := -1; ; {
		pods, err := api.Items[*corev1.Pod](ctx, objects, api.Pods, api.ListOptions{Fields: fields.OneTermEqualSelector("spec.nodeName", name)})
		if err != nil {
			return err
		}
		left := 0
		for _, p := range pods {
			id := p.Namespace + "/" + p.Name
			switch {
			case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
				continue
			case isOf(p, api.DaemonSets), rules.IsMirror(p): // the node's own
				continue
			case metav1.GetControllerOf(p) == nil:
				if !slices.Contains(stay, id) {
					stay = append(stay, id)
				}
				continue
			}
			left++
			if asked[string(p.UID)] {
				continue
			}
			err := objects.Evict(ctx, p.Namespace, p.Name, p.UID)
			switch {
			case apierrors.IsTooManyRequests(err):
				if !waits[string(p.UID)] {
					say(cmd, "%s has to wait: %s", id, cause(err))
				}
				waits[string(p.UID)] = true
				continue
			case err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
				return fmt.Errorf("evict pod %s: %w", id, err)
			}
			asked[string(p.UID)] = true
		}
		if left == 0 {
			break
		}
		if left != last {
			say(cmd, "%d pods are still ending", left)
			last = left
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d pods of %s are still ending: %w", left, name, context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
	if len(stay) > 0 {
		return fmt.Errorf("node %s has pods that nothing would make anew: %v; delete them, or leave them to the node", name, stay)
	}
	say(cmd, "%s is empty: %d pods have gone elsewhere", name, len(asked))
	return nil
}

// isOf tells whether a pod's controller is of a kind.
func isOf(p *corev1.Pod, r *api.Resource) bool {
	c := metav1.GetControllerOf(p)
	return c != nil && c.Kind == r.Kind
}

// cause is the first cause of an API's error, or what it says itself.
func cause(err error) string {
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		if d := s.Status().Details; d != nil && len(d.Causes) > 0 {
			return d.Causes[0].Message
		}
	}
	return err.Error()
}

func (o *options) nodeUncordon(a *admin) *cobra.Command {
	return &cobra.Command{
		Use: "uncordon NODE", Short: "Let pods be placed on a node again", Args: cobra.ExactArgs(1),
		Example: "  sudo faas node uncordon worker-2",
		RunE: func(cmd *cobra.Command, args []string) error {
			objects, ctx, cancel, err := a.begin(cmd, o.short)
			if err != nil {
				return err
			}
			defer cancel()
			if err := cordon(ctx, objects, args[0], false); err != nil {
				return err
			}
			say(cmd, "%s takes pods again", args[0])
			return nil
		},
	}
}

func (o *options) nodeRemove(a *admin) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "remove NODE", Aliases: []string{"rm"}, Short: "Take a node out of the cluster", Args: cobra.ExactArgs(1),
		Long: `Drains the node and takes it out of the cluster: its certificate is worth nothing
from then on, and to come back it has to join anew. --force does not drain it: for
a machine that is lost for good.`,
		Example: "  sudo faas node remove worker-2\n  sudo faas node remove worker-3 --force",
		RunE: func(cmd *cobra.Command, args []string) error {
			objects, ctx, cancel, err := a.begin(cmd, o.long)
			if err != nil {
				return err
			}
			defer cancel()
			n, err := api.Get[*corev1.Node](ctx, objects, api.Nodes, "", args[0])
			if apierrors.IsNotFound(err) {
				return fmt.Errorf("there is no node %s; `faas node list` shows those that are", args[0])
			}
			if err != nil {
				return err
			}
			if !force {
				if err := drain(ctx, cmd, objects, n.Name); err != nil {
					return err
				}
			}
			if _, err := objects.Delete(ctx, api.Nodes, "", n.Name, api.DeleteOptions{UID: n.UID}); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			if _, err := objects.Delete(ctx, api.Leases, api.SystemNamespace, n.Name, api.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return errors.Join(fmt.Errorf("node %s is removed, its Lease is not", n.Name), err)
			}
			say(cmd, "%s is no node any more; `faas agent stop` on it ends what it still runs", n.Name)
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "do not drain it")
	return cmd
}
