PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE images (
    dataset TEXT, position INTEGER, image TEXT, path TEXT, sha256 TEXT, prompt TEXT, prompt_id TEXT, generator TEXT, style TEXT,
    mos REAL, mos_std REAL, mos_align REAL, other_prompt TEXT, fault TEXT,
    PRIMARY KEY (dataset, position)
);
INSERT INTO images VALUES('set',0,'1.png','/images/1.png','sha1','a cat','','DALLE2','',1.0,0.10000000000000000555,NULL,'a dog','');
INSERT INTO images VALUES('set',1,'2.png','/images/2.png','sha2','a dog','','glide','',2.0,NULL,NULL,'a cat','');
INSERT INTO images VALUES('set',2,'3.png','/images/3.png','','','','','',3.0,NULL,NULL,'','there is no such file in ''/images''.');
CREATE TABLE configurations (
    configuration TEXT PRIMARY KEY, metric TEXT, options TEXT, weights_sha256 TEXT, code_version TEXT, score_range TEXT,
    lower_better INTEGER, uses_prompt INTEGER
);
INSERT INTO configurations VALUES('f33d255326c9b295ae3ee22aec58c33bae97a08511f2eb50ac39a0b1a526df1c','entropy','{}','abc','align-iqa-plugin 0.3.0, pyiqa 0.1.16','',0,0);
INSERT INTO configurations VALUES('62ff51e29ba2016c80600a3ff167d7cdb6bee4f98c36da47401ffb8686b6ceb9','clipscore','{}','def','align-iqa-plugin 0.3.0, pyiqa 0.1.16','',0,1);
CREATE TABLE scores (
    configuration TEXT, sha256 TEXT, prompt TEXT, score REAL, reason TEXT, seconds REAL, batch INTEGER, device TEXT,
    scored_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ')),
    PRIMARY KEY (configuration, sha256, prompt)
) WITHOUT ROWID;
INSERT INTO scores VALUES('62ff51e29ba2016c80600a3ff167d7cdb6bee4f98c36da47401ffb8686b6ceb9','sha1','a cat',0.69999999999999995559,'',NULL,1,'cpu','2026-11-25T18:40:58Z');
INSERT INTO scores VALUES('62ff51e29ba2016c80600a3ff167d7cdb6bee4f98c36da47401ffb8686b6ceb9','sha1','a dog',0.2000000000000000111,'',NULL,1,'cpu','2026-11-25T18:40:58Z');
INSERT INTO scores VALUES('f33d255326c9b295ae3ee22aec58c33bae97a08511f2eb50ac39a0b1a526df1c','sha1','',0.5,'',0.010000000000000000208,1,'cpu','2026-11-25T18:40:58Z');
INSERT INTO scores VALUES('f33d255326c9b295ae3ee22aec58c33bae97a08511f2eb50ac39a0b1a526df1c','sha2','',NULL,'got the score nan.',NULL,1,'cpu','2026-11-25T18:40:58Z');
CREATE TABLE metrics (
    metric TEXT PRIMARY KEY, configuration TEXT, available INTEGER, reason TEXT, device TEXT, decode_seconds REAL, peak_mb REAL
);
INSERT INTO metrics VALUES('entropy','f33d255326c9b295ae3ee22aec58c33bae97a08511f2eb50ac39a0b1a526df1c',1,'','cpu',0.0040000000000000000832,100.0);
INSERT INTO metrics VALUES('clipscore','62ff51e29ba2016c80600a3ff167d7cdb6bee4f98c36da47401ffb8686b6ceb9',1,'','cpu',NULL,NULL);
INSERT INTO metrics VALUES('niqe',NULL,0,'needs a file.','',NULL,NULL);
CREATE TABLE comparisons (dataset TEXT, metric TEXT, PRIMARY KEY (dataset, metric)) WITHOUT ROWID;
INSERT INTO comparisons VALUES('set','clipscore');
INSERT INTO comparisons VALUES('set','entropy');
CREATE VIEW score_table AS
SELECT
    images.dataset, metrics.metric, images.image, images.path, images.sha256, images.prompt, images.prompt_id, images.generator,
    images.style, images.mos, images.mos_std, images.mos_align, own.score,
    CASE WHEN fault != '' THEN fault WHEN own.configuration IS NULL THEN 'is not scored yet.' ELSE own.reason END AS reason,
    lower_better, uses_prompt, other.score AS shuffled_score, own.seconds
FROM comparisons JOIN images USING (dataset) JOIN metrics USING (metric) JOIN configurations USING (configuration)
LEFT JOIN scores AS own
    ON own.configuration = metrics.configuration AND own.sha256 = images.sha256
    AND own.prompt = CASE WHEN uses_prompt THEN images.prompt ELSE '' END
LEFT JOIN scores AS other
    ON uses_prompt AND other_prompt != ''
    AND other.configuration = metrics.configuration AND other.sha256 = images.sha256 AND other.prompt = other_prompt
ORDER BY images.dataset, metrics.metric, images.position;
COMMIT;
PRAGMA user_version = 1;
