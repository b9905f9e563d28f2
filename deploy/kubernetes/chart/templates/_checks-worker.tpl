{{/* What workers are given: space, memory, a place, certificates, eBPF. */}}

{{- define "quickwater.checkWorker" -}}
{{- $worker := .Values.worker -}}
{{- include "quickwater.checkMemory" (dict "name" "worker" "values" $worker) -}}
{{- include "quickwater.checkExtraArgs" (dict "name" "worker" "extra" $worker.extraArgs "own" (include "quickwater.workerArgs" .)) -}}
{{- $shards := include "quickwater.shards" . | int64 -}}
{{- if gt $shards (int64 255) -}}
{{- fail (printf "worker.resources.cpu: a worker has 255 shards at most, not %d: say how many by --threads=255 in worker.extraArgs" $shards) -}}
{{- end -}}
{{- /* What is left of the memory for IO buffers makes two large ones for each shard. */ -}}
{{- $memory := include "quickwater.bytes" $worker.memory | int64 -}}
{{- $memoryLeast := add 64 (mul 12 $shards) -}}
{{- if lt $memory (mul $memoryLeast 1048576) -}}
{{- fail (printf "worker.memory: %s is too little for %d shards (worker.resources.cpu, or ebpf.threads): %dMiB or more" $worker.memory $shards $memoryLeast) -}}
{{- end -}}
{{- /* Four segments of 4 MiB for each shard. */ -}}
{{- $capacity := include "quickwater.bytes" $worker.capacity | int64 -}}
{{- if lt $capacity (mul 16777216 $shards) -}}
{{- fail (printf "worker.capacity: %s is too little for %d shards (worker.resources.cpu, or ebpf.threads): %dMiB or more" $worker.capacity $shards (mul 16 $shards)) -}}
{{- end -}}
{{- if ge $capacity (int64 1152921504606846976) -}}
{{- fail (printf "worker.capacity: %s: no disk has that; give what the disk of a node has, less a tenth" $worker.capacity) -}}
{{- end -}}
{{- include "quickwater.checkStorage" . -}}
{{- $certificates := $worker.certificates -}}
{{- if and (not $certificates.hostPath) (not $certificates.nodes) -}}
{{- fail "worker.certificates: name the nodes that the Secret has certificates for, or a hostPath" -}}
{{- end -}}
{{- if and $certificates.hostPath $certificates.nodes -}}
{{- fail "worker.certificates: hostPath and nodes exclude each other: certificates are either on the nodes, or in a Secret for the nodes named" -}}
{{- end -}}
{{- if and $certificates.nodes (not $certificates.secret) -}}
{{- fail "worker.certificates.secret: name the Secret that has the certificates of worker.certificates.nodes" -}}
{{- end -}}
{{- range $name, $path := dict "storage" $worker.storage.hostPath "certificates" $certificates.hostPath -}}
{{- include "quickwater.checkNotOfTheKernel" (dict "what" (printf "worker.%s.hostPath" $name) "path" ($path | default "")) -}}
{{- end -}}
{{- if and $worker.hostNetwork $worker.hostPort -}}
{{- fail "worker.hostPort: with worker.hostNetwork a worker has port 29998 of its node already: leave one of them out" -}}
{{- end -}}
{{- end -}}

{{- define "quickwater.checkStorage" -}}
{{- $storage := .Values.worker.storage -}}
{{- $capacity := include "quickwater.bytes" .Values.worker.capacity | int64 -}}
{{- if $storage.ephemeralClassName -}}
{{- /* That of values.yaml: there if nobody said anything. */ -}}
{{- if and $storage.hostPath (ne $storage.hostPath "/var/lib/quickwater") -}}
{{- fail "worker.storage: hostPath and ephemeralClassName exclude each other: set hostPath to \"\", or leave ephemeralClassName out" -}}
{{- end -}}
{{- if gt (mul $capacity 11) (mul (include "quickwater.bytes" $storage.ephemeralSize | int64) 10) -}}
{{- fail (printf "worker.storage.ephemeralSize: a volume of %s is too small for worker.capacity of %s: a file system keeps some for itself, leave a tenth and more" $storage.ephemeralSize .Values.worker.capacity) -}}
{{- end -}}
{{- else if not $storage.hostPath -}}
{{- fail "worker.storage: name a directory of the nodes in hostPath, or a class of volumes in ephemeralClassName" -}}
{{- end -}}
{{- end -}}

{{- define "quickwater.checkEbpf" -}}
{{- $ebpf := .Values.ebpf -}}
{{- if $ebpf.enabled -}}
{{- if not $ebpf.threads -}}
{{- fail "ebpf.threads: say how many shards each worker has, as many as it has CPUs" -}}
{{- end -}}
{{- if eq .Values.worker.seccomp.type "RuntimeDefault" -}}
{{- fail "worker.seccomp.type: RuntimeDefault forbids bpf(2), by which a worker opens what is pinned: with ebpf.enabled use Localhost, and lay ebpf.localhostProfile on the nodes" -}}
{{- end -}}
{{- else if $ebpf.service -}}
{{- fail "ebpf.service: without ebpf.enabled nothing turns its connections: set that, too" -}}
{{- end -}}
{{- if $ebpf.cgroup -}}
{{- if not $ebpf.service -}}
{{- fail "ebpf.cgroup: whose connections to ebpf.service are turned: set that, too" -}}
{{- end -}}
{{- if has ".." (splitList "/" $ebpf.cgroup) -}}
{{- fail (printf "ebpf.cgroup: %s: a path below /sys/fs/cgroup without '..'" $ebpf.cgroup) -}}
{{- end -}}
{{- end -}}
{{- end -}}
