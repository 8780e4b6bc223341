import subprocess
import threading
import unittest
from typing import Any

from botocore.exceptions import ClientError

from tests.running import Case, client


class S3(Case):
    def setUp(self) -> None:
        super().setUp()
        self.s3 = self.aws.client("s3")
        self.bucket = f"bucket-{self.aws.id}"
        self.s3.create_bucket(Bucket=self.bucket)

    def put(self, key: str, body: bytes = b"x", **more: Any) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **more)

    def test_of_many_who_create_an_object_at_once_one_wins(self) -> None:
        outcomes: list[str] = []

        def create(body: bytes) -> None:
            try:
                self.aws.client("s3").put_object(Bucket=self.bucket, Key="once", Body=body, IfNoneMatch="*")
                outcomes.append("won")
            except ClientError as error:
                outcomes.append(error.response["Error"]["Code"])

        threads = [threading.Thread(target=create, args=(str(n).encode(),)) for n in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        self.assertEqual(sorted(outcomes), ["PreconditionFailed"] * 7 + ["won"])

    def test_a_script_can_curl_presigned_addresses(self) -> None:
        newer = client(self.emulator, "s3", self.aws.keys, signature_version="s3v4")
        for key, sign in (
            ("binary", self.s3.generate_presigned_url),
            ("folder/with space+plus", newer.generate_presigned_url),
        ):
            put = sign("put_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=60)
            get = sign("get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=60)
            self.assertTrue(put.startswith(f"http://{self.emulator.address}/"))
            subprocess.run(["curl", "-sSf", "-X", "PUT", "--data-binary", "@-", put], input=b"content\n", check=True)
            self.assertEqual(
                subprocess.run(["curl", "-sSf", get], stdout=subprocess.PIPE, check=True).stdout, b"content\n"
            )
            upload = subprocess.run(
                ["curl", "-sSf", "-T", "-", put], input=b"chunked", check=True
            )  # no length is known
            self.assertEqual(
                (upload.returncode, self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()), (0, b"chunked")
            )
        self.assertEqual(
            sorted(each["Key"] for each in self.s3.list_objects_v2(Bucket=self.bucket)["Contents"]),
            ["binary", "folder/with space+plus"],
        )

    def test_every_operation_is_counted_by_its_own_name(self) -> None:
        s3, named = self.s3, {"Bucket": self.bucket, "Key": "a/b c"}
        s3.list_buckets()
        s3.head_bucket(Bucket=self.bucket)
        s3.get_bucket_location(Bucket=self.bucket)
        s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})
        s3.put_bucket_tagging(Bucket=self.bucket, Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
        s3.put_public_access_block(Bucket=self.bucket, PublicAccessBlockConfiguration={"BlockPublicAcls": True})
        self.put("a/b c")
        s3.get_object(**named)
        s3.head_object(**named)
        s3.copy_object(Bucket=self.bucket, Key="copy", CopySource=named)
        s3.list_objects(Bucket=self.bucket)
        s3.list_objects_v2(Bucket=self.bucket)
        s3.list_object_versions(Bucket=self.bucket)
        upload = s3.create_multipart_upload(**named)["UploadId"]
        s3.upload_part(**named, UploadId=upload, PartNumber=1, Body=b"x")
        s3.list_parts(**named, UploadId=upload)
        s3.list_multipart_uploads(Bucket=self.bucket)
        s3.abort_multipart_upload(**named, UploadId=upload)
        s3.delete_object(**named)
        s3.delete_objects(Bucket=self.bucket, Delete={"Objects": [{"Key": "copy"}]})
        versions = s3.list_object_versions(Bucket=self.bucket)
        gone = [
            {"Key": each["Key"], "VersionId": each["VersionId"]}
            for each in versions["Versions"] + versions["DeleteMarkers"]
        ]
        s3.delete_objects(Bucket=self.bucket, Delete={"Objects": gone})
        s3.delete_bucket(Bucket=self.bucket)
        expected = dict.fromkeys(
            (
                "ListBuckets",
                "HeadBucket",
                "GetBucketLocation",
                "PutBucketVersioning",
                "PutBucketTagging",
                "PutPublicAccessBlock",
                "PutObject",
                "GetObject",
                "HeadObject",
                "CopyObject",
                "ListObjects",
                "ListObjectsV2",
                "CreateMultipartUpload",
                "UploadPart",
                "ListParts",
                "ListMultipartUploads",
                "AbortMultipartUpload",
                "DeleteObject",
                "DeleteBucket",
                "CreateBucket",
            ),
            1,
        ) | {"ListObjectVersions": 2, "DeleteObjects": 2}
        self.assertEqual(self.emulator.ask("GET", f"calls?account={self.aws.id}"), expected)


if __name__ == "__main__":
    unittest.main()
