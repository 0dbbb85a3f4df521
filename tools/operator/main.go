// Command operator keeps the custom kind Database of the tests: for each one a
// ConfigMap and a Deployment that it owns, its status, an Event, and a note of those
// that are gone. It is a controller as people write them on controller-runtime, with
// all that those use: cache, indexes, leader election, finalizers, server-side apply.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	finalizer = "db.example.org/goodbye"
	owner     = "operator"
	byEngine  = "spec.engine"
	// engines is the ConfigMap of a namespace that says which image runs an engine.
	engines = "engines"
	// farewells is the ConfigMap of those that are gone.
	farewells = "farewells"
)

func main() {
	namespace := flag.String("namespace", "default", "where the lease of the leader is")
	flag.Parse() // and --kubeconfig, which controller-runtime adds
	ctrl.SetLogger(zap.New())
	if err := run(*namespace); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(namespace string) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, builder.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	m, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, Metrics: server.Options{BindAddress: "0"},
		LeaderElection: true, LeaderElectionID: "operator.db.example.org", LeaderElectionNamespace: namespace, LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return err
	}
	ctx := ctrl.SetupSignalHandler()
	if err := m.GetFieldIndexer().IndexField(ctx, &Database{}, byEngine, func(o client.Object) []string {
		return []string{o.(*Database).Spec.Engine}
	}); err != nil {
		return err
	}
	r := &reconciler{Client: m.GetClient(), scheme: scheme, events: m.GetEventRecorder(owner)}
	err = ctrl.NewControllerManagedBy(m).For(&Database{}).Owns(&corev1.ConfigMap{}).Owns(&appsv1.Deployment{}).
		Watches(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(r.affected)).Complete(r)
	if err != nil {
		return err
	}
	return m.Start(ctx)
}

type reconciler struct {
	client.Client
	scheme *runtime.Scheme
	events events.EventRecorder
}

// affected are the databases that a change of the images concerns.
func (r *reconciler) affected(ctx context.Context, o client.Object) []reconcile.Request {
	if o.GetName() != engines {
		return nil
	}
	var out []reconcile.Request
	for engine := range o.(*corev1.ConfigMap).Data {
		var l DatabaseList
		if err := r.List(ctx, &l, client.InNamespace(o.GetNamespace()), client.MatchingFields{byEngine: engine}); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "list those of an engine", "engine", engine)
			continue
		}
		for i := range l.Items {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&l.Items[i])})
		}
	}
	return out
}

// Reconcile implements reconcile.Reconciler.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var d Database
	if err := r.Get(ctx, req.NamespacedName, &d); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if d.DeletionTimestamp != nil {
		return ctrl.Result{}, r.farewell(ctx, &d)
	}
	was := d.DeepCopyObject().(*Database)
	if controllerutil.AddFinalizer(&d, finalizer) {
		if err := r.Patch(ctx, &d, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
			return ctrl.Result{}, err
		}
	}
	if err := r.settings(ctx, &d); err != nil {
		return ctrl.Result{}, err
	}
	image, err := r.image(ctx, &d)
	if err != nil || image == "" {
		return ctrl.Result{RequeueAfter: time.Minute}, err
	}
	run, err := r.running(ctx, &d, image)
	if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, r.report(ctx, &d, run)
}

// settings is a ConfigMap, applied by the server.
func (r *reconciler) settings(ctx context.Context, d *Database) error {
	ref := metav1apply.OwnerReference().WithAPIVersion(groupVersion.String()).WithKind("Database").WithName(d.Name).WithUID(d.UID).WithController(true)
	return r.Apply(ctx, corev1apply.ConfigMap(d.Name, d.Namespace).WithOwnerReferences(ref).
		WithData(map[string]string{"engine": d.Spec.Engine, "replicas": strconv.Itoa(int(d.Spec.Replicas))}), client.FieldOwner(owner), client.ForceOwnership)
}

// image is what runs the engine; "" is nothing yet.
func (r *reconciler) image(ctx context.Context, d *Database) (string, error) {
	var m corev1.ConfigMap
	err := r.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: engines}, &m)
	return m.Data[d.Spec.Engine], client.IgnoreNotFound(err)
}

func (r *reconciler) running(ctx context.Context, d *Database, image string) (*appsv1.Deployment, error) {
	labels := map[string]string{"database": d.Name}
	run := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: d.Name, Namespace: d.Namespace}}
	done, err := controllerutil.CreateOrUpdate(ctx, r.Client, run, func() error {
		run.Spec.Replicas = new(d.Spec.Replicas)
		run.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
		run.Spec.Template.Labels = labels
		if len(run.Spec.Template.Spec.Containers) == 0 {
			run.Spec.Template.Spec.Containers = make([]corev1.Container, 1)
		}
		c := &run.Spec.Template.Spec.Containers[0]
		c.Name, c.Image, c.Command = "main", image, []string{"sleep", "1000"}
		run.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(0))
		return ctrl.SetControllerReference(d, run, r.scheme)
	})
	if err == nil && done != controllerutil.OperationResultNone {
		r.events.Eventf(d, run, corev1.EventTypeNormal, "Deployed", "Deploy", "the deployment %s is %s", run.Name, done)
	}
	return run, err
}

// report writes the status, and nothing else of the object.
func (r *reconciler) report(ctx context.Context, d *Database, run *appsv1.Deployment) error {
	was := d.DeepCopyObject().(*Database)
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Starting", ObservedGeneration: d.Generation}
	d.Status.Phase = "Starting"
	if run.Status.ReadyReplicas == d.Spec.Replicas && run.Status.ObservedGeneration == run.Generation {
		d.Status.Phase, ready.Status, ready.Reason = "Up", metav1.ConditionTrue, "Running"
	}
	meta.SetStatusCondition(&d.Status.Conditions, ready)
	d.Status.Replicas, d.Status.ObservedGeneration = run.Status.ReadyReplicas, d.Generation
	return r.Status().Patch(ctx, d, client.MergeFrom(was))
}

// farewell notes that a database is gone, and lets it go.
func (r *reconciler) farewell(ctx context.Context, d *Database) error {
	if !controllerutil.ContainsFinalizer(d, finalizer) {
		return nil
	}
	note := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: farewells, Namespace: d.Namespace}}
	if _, err := controllerutil.CreateOrPatch(ctx, r.Client, note, func() error {
		if note.Data == nil {
			note.Data = map[string]string{}
		}
		note.Data[d.Name] = string(d.UID)
		return nil
	}); err != nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return err
	}
	was := d.DeepCopyObject().(*Database)
	controllerutil.RemoveFinalizer(d, finalizer)
	return client.IgnoreNotFound(r.Patch(ctx, d, client.MergeFrom(was)))
}
